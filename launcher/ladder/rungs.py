"""The config of a rung: the model of a size, the recipe of the size rule, and a schedule of the run's length."""

from __future__ import annotations

import math
from typing import Any

from launcher.ladder.ladder_file import Rung
from launcher.ladder.shapes import model_of_size
from launcher.run.config import RunConfig
from launcher.run.held_out_sequences import held_out_loader
from laws.size_rules.base import SizeRule, TunedRun
from model.config import ModelConfig
from model.size import flops_per_token, parameters
from parallel.config import ParallelConfig
from settings import UserError
from settings.differences import flatten
from train.metrics.console import format_count

_EVALUATIONS = 40  # of a run: a fit needs twenty or more
_LEAST_STEPS = 80  # of a run, for as many evaluations and a warm-up
_MODEL_KEYS = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "ffn_size")


def tuned_run(config: RunConfig, model: ModelConfig) -> TunedRun:
    """Returns the run of a config, as a size rule starts from it. `model`: with its vocabulary."""
    batch_tokens = config.train.global_batch_size * config.train.seq_length
    return TunedRun(
        parameters=parameters(model, seq_length=config.train.seq_length),
        tokens=batch_tokens * config.train.steps,
        lr=config.optim.lr,
        batch_tokens=batch_tokens,
        weight_decay=float(getattr(config.optim, "weight_decay", 0.0)),
    )


def check_base(config: RunConfig) -> None:
    """Raises UserError for a config of which no ladder can be made."""
    if config.stages or config.branch.run is not None:
        key = "stages" if config.stages else "branch.run"
        raise UserError(f"{key}: a ladder is of runs that begin afresh, on one mix of data; remove {key}")
    if config.schedule.file_values():
        raise UserError(
            f"schedule = {config.schedule.name}: a table of lr has one length, and a ladder has several; take a "
            "schedule that scales, such as cosine or wsd"
        )
    if not held_out_loader(config).sources:
        raise UserError(
            f"data.shards = {config.data.shards}: nothing is held out, and a ladder forecasts a held-out loss; build "
            "the shards with data.held_out_fraction above 0"
        )


def rung_of_size(
    config: RunConfig,
    model: ModelConfig,
    rule: SizeRule,
    tuned: TunedRun,
    *,
    size: float,
    tokens: float,
    on_one_rank: bool = True,
) -> Rung:
    """Returns the rung of about `size` parameters and `tokens` tokens. `config`, `model`: those that are changed.

    `on_one_rank`: without the layout of the config, for which a smaller model may have too few heads. Raises UserError
    if there is no model of this size, and if the run has too few steps.
    """
    train = config.train
    tensor = 1 if on_one_rank else config.parallel.tensor
    shaped = model_of_size(model, size, seq_length=train.seq_length, tensor=tensor)
    exact = parameters(shaped, seq_length=train.seq_length)
    recipe = rule.run(tuned, parameters=exact, tokens=tokens)
    wanted = recipe.batch_tokens / train.seq_length
    micro_batch_size = train.micro_batch_size if wanted >= train.micro_batch_size else max(1, round(wanted))
    multiple = micro_batch_size * (1 if on_one_rank else _micro_batches_of_layout(config.parallel))
    rows = multiple * max(1, round(wanted / multiple))  # an odd number would be trained row by row
    steps = round(tokens / (rows * train.seq_length))
    if steps < _LEAST_STEPS:
        raise UserError(
            f"a run of {exact:,} parameters and {tokens:.3g} tokens has {max(steps, 0)} steps of {rows} rows, and a "
            f"forecast needs at least {_LEAST_STEPS}: give more tokens, or lower train.global_batch_size in the config"
        )
    plain_model, keys = shaped.to_plain(), dict[str, Any]()
    keys |= {f"model.{key}": plain_model[key] for key in _MODEL_KEYS}
    for key, value in flatten(config.optim.to_plain()).items():
        if key.rpartition(".")[2] == "lr" and value:  # a mixed optimizer may have a second one
            keys[f"optim.{key}"] = _rounded(value * recipe.lr / config.optim.lr)
    if tuned.weight_decay:
        keys["optim.weight_decay"] = _rounded(recipe.weight_decay)
    keys |= _schedule_keys(config, steps=steps, lr=recipe.lr)
    keys["train.steps"], keys["train.global_batch_size"] = steps, rows
    keys["train.micro_batch_size"] = micro_batch_size
    if on_one_rank:
        default = ParallelConfig().to_plain()
        keys |= {
            f"parallel.{key}": default[key]
            for key, value in config.parallel.to_plain().items()
            if value != default[key]
        }
    keys["evaluate.every_steps"] = max(1, steps // _EVALUATIONS)
    seen = rows * train.seq_length * steps
    return Rung(
        name=f"{format_count(exact)}-{format_count(seen)}",
        parameters=exact,
        tokens=seen,
        flops=float(seen * flops_per_token(shaped, train.seq_length)),  # more than an integer of 64 bits holds
        keys=keys,
    )


def _micro_batches_of_layout(parallel: ParallelConfig) -> int:
    """Returns a number of micro-batches that a layout can share: those of a step must be a multiple of it."""
    return parallel.data * (parallel.pipeline if parallel.virtual_stages > 1 else 1)


def _schedule_keys(config: RunConfig, *, steps: int, lr: float) -> dict[str, Any]:
    """Returns the schedule's own steps, scaled as the run, and its own lr, scaled as the peak."""
    keys: dict[str, Any] = {}
    for key, value in config.schedule.to_plain().items():
        if key.endswith(("_steps", "_step")) and value:
            keys[f"schedule.{key}"] = min(steps, max(1, round(value * steps / config.train.steps)))
        elif key.endswith("_lr") and value:
            keys[f"schedule.{key}"] = _rounded(value * lr / config.optim.lr)
    return keys


def _rounded(value: float) -> float:
    """Returns a value with three digits: a config is read by people."""
    return float(f"{value:.3g}") if value and math.isfinite(value) else value
