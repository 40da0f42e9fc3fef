"""A loss curve, and the batch size, from a run folder: metrics.jsonl and config.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from laws.curve import Floats, LossCurve, LrCurve, detect_warmup
from laws.reading.reading import Reading, check_tokens, median_batch
from schedules.stage_lengths import mixes
from settings import UserError
from settings.jsonl import read_steps

DEFAULT_LOSS = "held_out/loss"
_LARGEST = 2**63  # of integers: more fits no array
_MOST_STEPS_A_ROW = 100_000  # further apart, the rows are not those of one run


def read_run(
    path: Path, *, loss: str = DEFAULT_LOSS, warmup_steps: int | None = None, last_step: int | None = None
) -> Reading:
    """Reads the curve of a run folder; the arguments are those of `read_curve`. Raises UserError."""
    rows = _metrics(path / "metrics.jsonl")
    last = math.inf if last_step is None else last_step
    rows = {step: row for step, row in rows.items() if 1 <= step <= last}
    trained = sorted(step for step, row in rows.items() if _is_number(row.get("lr")))
    if not trained:
        raise UserError(f"{path}: metrics.jsonl holds no step with an lr")
    if trained[-1] > _MOST_STEPS_A_ROW * len(trained):
        raise UserError(f"{path}: metrics.jsonl is garbled: step {trained[-1]} in {len(trained)} lines with an lr")
    config = _config(path / "config.yaml")
    _check_stages(path, config, trained[-1])
    batch_tokens = None
    if all(_is_number(rows[step].get("tokens")) for step in trained):
        tokens = np.array([float(rows[step]["tokens"]) for step in trained])
        check_tokens(path, np.array(trained), tokens)
        batch_tokens = median_batch(np.array(trained), tokens)
    evaluated = sorted(step for step, row in rows.items() if _is_number(row.get(loss)) and step <= trained[-1])
    if not evaluated:
        known = sorted({key for row in rows.values() for key in row if key.endswith("loss") and "forecast" not in key})
        raise UserError(
            f"{path}: metrics.jsonl holds no {loss}; set evaluate.every_steps in the run's config"
            + (f", or name another loss ({', '.join(known)})" if known else "")
        )
    lr_n, applied = _applied(rows, trained)
    declared = warmup_steps
    if declared is None:
        schedule = _first_schedule(config)
        declared = schedule.get("warmup_steps") if isinstance(schedule, Mapping) else None
    warmup = min(int(declared), lr_n.size) if declared is not None else detect_warmup(lr_n)
    steps = np.array([applied[step] for step in evaluated], dtype=np.int64)
    losses = np.array([float(rows[step][loss]) for step in evaluated])
    keep = np.diff(steps, prepend=0) > 0  # a skipped step changed nothing: its loss is the one before
    applied_lr = LrCurve(lr_n, warmup)
    curve = LossCurve(applied_lr, steps[keep], loss=losses[keep], name=path.name, batch_tokens=batch_tokens)
    skipped = trained[-1] - lr_n.size
    notes = (f"{path.name}: {skipped} skipped steps are left out",) if skipped else ()
    return Reading(curve, notes)


def _first_schedule(config: Mapping[str, Any]) -> Any:
    """Returns the schedule with which the run begins: that of its first stage, if it has one."""
    stages = config.get("stages")
    first = stages[0] if isinstance(stages, list) and stages and isinstance(stages[0], Mapping) else {}
    return first.get("schedule") or config.get("schedule")


def tokens_per_step(path: Path) -> float:
    """Returns the median of the tokens a step of a run folder. Raises UserError if metrics.jsonl holds no tokens."""
    rows = _metrics(path / "metrics.jsonl")
    steps = [step for step, row in rows.items() if _is_number(row.get("tokens"))]
    if len(steps) < 2:
        raise UserError(f"{path}: metrics.jsonl says no tokens, so the batch size is unknown")
    tokens = np.array([float(rows[step]["tokens"]) for step in steps])
    return float(np.median(np.diff(tokens) / np.diff(steps)))


def _applied(rows: Mapping[int, Mapping[str, Any]], trained: list[int]) -> tuple[Floats, dict[int, int]]:
    """Returns the lr of the steps that changed the weights, and how many of these there were by each step."""
    steps = np.arange(1, trained[-1] + 1)
    lr_n = np.interp(steps, trained, [float(rows[step]["lr"]) for step in trained])
    skipped = np.interp(steps, trained, [_number_or_zero(rows[step].get("skipped_steps")) for step in trained])
    took = np.diff(skipped, prepend=0.0) < 0.5
    return lr_n[took], dict(zip(steps.tolist(), np.cumsum(took).tolist(), strict=True))


def _metrics(path: Path) -> dict[int, dict[str, Any]]:
    """Returns the values of metrics.jsonl by step. Raises UserError if it is missing or cannot be read."""
    try:
        return read_steps(path)
    except FileNotFoundError:
        raise UserError(f"{path.parent} is no run folder: it holds no metrics.jsonl") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _config(path: Path) -> Mapping[str, Any]:
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return plain if isinstance(plain, Mapping) else {}


def _check_stages(path: Path, config: Mapping[str, Any], last_step: int) -> None:
    data = config.get("data")
    old = data.get("stages") if isinstance(data, Mapping) else None  # as earlier versions recorded stages
    changes = [("data.stages", stage.get("from_step", 0)) for stage in old or () if isinstance(stage, Mapping)]
    changes += [(mix.key, mix.first_step) for mix in mixes(config)]
    for key, first in changes:
        if 0 < first < last_step:
            raise UserError(
                f"{path}: the data mix changes at step {first} ({key}), and no law of the lr covers that; "
                f"fit only the steps before it with --last-step {first}"
            )


def _number_or_zero(value: Any) -> float:
    return float(value) if _is_number(value) else 0.0


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < _LARGEST if isinstance(value, int) else math.isfinite(value)
