"""The checks of a run config that need no rank: its sections against each other and against the shards."""

from __future__ import annotations

from data.batches.build_plan import sources_without_rows
from data.batches.check_training_data import check_training_data
from data.batches.epochs import epochs_by_source
from data.shards.index import open_shards, shard_tokenizer
from launcher.run.config import RunConfig
from launcher.run.stages import draw_plan, run_schedule, training_data
from model.config import ModelConfig
from parallel.layout import Workload, check_layout
from parallel.run_plan import run_plan
from settings import UserError
from train.profiling.check_profile import check_profile


def check_config(config: RunConfig, *, world_size: int) -> list[str]:
    """Returns warnings, a line each, for a config that can be trained on `world_size` ranks.

    Raises UserError for the first mistake: in the layout, in the parameters that the optimizer covers, in the schedule,
    in the shards (their bytes are not read), in the vocabulary, in the forecast's fit file.
    """
    check_layout(config.parallel, config.model, workload(config, world_size))
    run_schedule(config)
    _check_keep_best(config)
    check_compile(config.train.compile, zero=config.parallel.zero)
    check_training_data(
        training_data(config),
        config.train.seq_length,
        seed=config.run.seed,
        rows_per_step_global=config.train.global_batch_size,
    )
    model = model_with_vocabulary(config)
    check_layout(config.parallel, model, workload(config, world_size))
    check_optimizer(config, model)
    if config.train.profile is not None:
        check_profile(config.train.profile, config.parallel, world_size=world_size)
    warnings = list(model.warnings())
    if config.train.forecast is not None:
        from launcher.run.forecast import check_forecast  # imports scipy

        warnings += check_forecast(config, model)
    return warnings


def check_optimizer(config: RunConfig, model: ModelConfig) -> None:
    """Raises UserError for a model that the optimizer or one of its transforms does not suit."""
    plan = run_plan(model, seq_length=config.train.seq_length, steps=config.train.steps)
    config.optim.check(plan.shapes)
    for transform in config.optim.transforms:
        transform.check(plan, tensor=config.parallel.tensor)


def repeated_data(config: RunConfig) -> tuple[list[str], list[str]]:
    """Returns notes and warnings, a line each: which sources the run reads more than once, and a step by itself."""
    plan = draw_plan(config)

    def epochs_of(steps: int) -> dict[str, float]:
        return epochs_by_source(plan, steps=steps)

    def repeated(epochs: dict[str, float]) -> str:
        return ", ".join(f"source {name} {times:,.1f} times" for name, times in epochs.items() if times >= 1.05)

    notes = [f"The run reads {sources}." for sources in [repeated(epochs_of(config.train.steps))] if sources]
    warnings = [
        f"each step reads {sources}: train.global_batch_size = {config.train.global_batch_size} counts rows of "
        f"train.seq_length = {config.train.seq_length} tokens, not tokens"
        for sources in [repeated(epochs_of(1))]
        if sources
    ]
    return notes, warnings


def left_out_sources(config: RunConfig) -> list[str]:
    """Returns a note for each source that is too short for a row, and is left out because no mixture names it."""
    data, seq_length = training_data(config), config.train.seq_length
    return [
        f'The run leaves out source "{name}": it has {tokens} tokens in its train split, and a row takes '
        f"train.seq_length + 1 = {seq_length + 1}."
        for name, tokens in sources_without_rows(data, open_shards(data), seq_length).items()
    ]


def _check_keep_best(config: RunConfig) -> None:
    """Raises UserError if a checkpoint could be saved without an evaluation, so that the best is not known."""
    every, evaluated = config.checkpoint.every_steps, config.evaluate.every_steps
    if config.checkpoint.keep_best and every and (not evaluated or every % evaluated):
        raise UserError(
            f"checkpoint.keep_best = {config.checkpoint.keep_best} needs an evaluation at every checkpoint: "
            f"checkpoint.every_steps = {every} must be divisible by evaluate.every_steps = {evaluated}; "
            f"set evaluate.every_steps={every}"
        )


def check_compile(compile_blocks: object, *, zero: int) -> None:
    """Raises UserError for a layout whose blocks torch.compile cannot compile. `compile_blocks`: train.compile."""
    if compile_blocks is True and zero == 3:
        raise UserError(
            "train.compile = true does not work with parallel.zero = 3, whose layers have weights only while they run; "
            "set train.compile to auto or false, or parallel.zero to 2 or less"
        )


def workload(config: RunConfig, world_size: int) -> Workload:
    """Returns the numbers that a layout must divide."""
    return Workload(
        world_size=world_size,
        seq_length=config.train.seq_length,
        micro_batch_size=config.train.micro_batch_size,
        global_batch_size=config.train.global_batch_size,
        needs_full_matrices=config.optim.needs_full_matrices(),
    )


def model_with_vocabulary(config: RunConfig) -> ModelConfig:
    """Returns the model with the vocabulary of the shards. Raises UserError if its own does not fit them."""
    return config.model.with_vocabulary(shard_tokenizer(training_data(config)).vocab_size)
