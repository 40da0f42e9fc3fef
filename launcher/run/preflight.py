"""Everything a config can get wrong that shows before a process is started."""

from __future__ import annotations

from data.batches.check_training_data import check_training_data
from data.shards.index import shard_tokenizer
from launcher.run.config import RunConfig
from model.config import ModelConfig
from model.transformer import without_values
from parallel.layout import Workload, check_layout
from settings import UserError


def check_config(config: RunConfig, *, world_size: int) -> list[str]:
    """Warnings, a line each, of a config that can be trained on `world_size` ranks.

    Raises UserError for the first mistake: in the layout, in what the optimizer's table covers, in the schedule, in
    the shards (not in their bytes), in the vocabulary, in the forecast's fit file.
    """
    check_layout(config.parallel, config.model, workload(config, world_size))
    config.schedule.build(peak_lr=config.optim.lr, total_steps=config.train.steps)
    _check_best(config)
    check_training_data(config.data, config.train.seq_length)
    model = model_with_vocabulary(config)
    check_layout(config.parallel, model, workload(config, world_size))
    config.optim.check(parameter_shapes(model, config.train.seq_length))
    warnings = list(model.warnings())
    if config.train.forecast is not None:
        from launcher.run.forecast import check_forecast  # brings scipy

        warnings += check_forecast(config, model)
    return warnings


def _check_best(config: RunConfig) -> None:
    """The best checkpoints can be told only where each is evaluated."""
    every, evaluated = config.checkpoint.every_steps, config.evaluate.every_steps
    if config.checkpoint.keep_best and every and (not evaluated or every % evaluated):
        raise UserError(
            f"checkpoint.keep_best = {config.checkpoint.keep_best} needs an evaluation at every checkpoint: "
            f"checkpoint.every_steps = {every} must be divisible by evaluate.every_steps = {evaluated}; "
            f"set evaluate.every_steps={every}"
        )


def workload(config: RunConfig, world_size: int) -> Workload:
    """The numbers that a layout must divide."""
    return Workload(
        world_size=world_size,
        seq_length=config.train.seq_length,
        micro_batch_size=config.train.micro_batch_size,
        global_batch_size=config.train.global_batch_size,
        full_matrices=not config.optim.elementwise,
        optimizer=config.optim.name,
    )


def model_with_vocabulary(config: RunConfig) -> ModelConfig:
    """The model with its vocabulary filled in from the shards. Raises UserError where they do not fit."""
    return config.model.with_vocabulary(shard_tokenizer(config.data).vocab_size)


def parameter_shapes(model: ModelConfig, seq_length: int) -> dict[str, tuple[int, ...]]:
    """Global names and whole shapes of all parameters; nothing is allocated."""
    full = without_values(model, seq_length=seq_length)
    return {name: tuple(parameter.shape) for name, parameter in full.named_parameters()}
