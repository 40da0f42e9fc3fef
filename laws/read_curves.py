"""Loss curves from where they lie: run folders (metrics.jsonl, config.yaml) and CSV files (step, lr, loss).

A law speaks of one batch size, one mix of data and the lr that was applied; a run that breaks this is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from laws.csv_columns import read_columns
from laws.curve import Curve, Floats, Ints, Schedule, detect_warmup, schedule_from_rows
from laws.scaling.critical_batch import BatchRun
from settings import UserError

DEFAULT_LOSS = "held_out/loss"
_LARGEST = 2**63  # of integers: more fits no array
_MOST_STEPS_A_ROW = 100_000  # further apart, the rows are not those of one run
_TOKENS_CHANGE = 0.1  # of the tokens a step; masks make them waver by less


@dataclass(frozen=True)
class Reading:
    """A curve, and what had to be assumed to read it."""

    curve: Curve
    notes: tuple[str, ...] = ()

    def of_size(self, parameters: float) -> Reading:
        """The same, of a model with so many parameters."""
        return Reading(replace(self.curve, parameters=parameters), self.notes)


def read_curve(
    path: Path, *, loss: str = DEFAULT_LOSS, warmup_steps: int | None = None, last_step: int | None = None
) -> Reading:
    """A run folder or a CSV file.

    `loss`: the key in metrics.jsonl (a CSV has a column `loss`); `warmup_steps`: None for what config.yaml says, or the
    rows; `last_step`: leave out what comes later. Raises UserError for all that is wrong with the data.
    """
    if path.is_dir():
        reading = _read_run(path, loss, warmup_steps, last_step)
    elif path.is_file():
        reading = _read_csv(path, warmup_steps, last_step)
    else:
        raise UserError(f"{path} is neither a run folder nor a CSV file")
    return reading


def read_batch_run(path: Path, *, loss: str = DEFAULT_LOSS) -> BatchRun:
    """A run folder as a run of one batch size: the median of its tokens a step."""
    if not path.is_dir():
        raise UserError(f"{path} is no run folder")
    curve = _read_run(path, loss, None, None).curve
    rows = _metrics(path / "metrics.jsonl")
    steps = sorted(step for step, row in rows.items() if _is_number(row.get("tokens")))
    if len(steps) < 2:
        raise UserError(f"{path}: metrics.jsonl says no tokens, so the batch size is unknown")
    tokens = np.array([float(rows[step]["tokens"]) for step in steps])
    return BatchRun(float(np.median(np.diff(tokens) / np.diff(steps))), curve.steps, curve.loss)


def _read_run(path: Path, loss: str, warmup_steps: int | None, last_step: int | None) -> Reading:
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
    if all(_is_number(rows[step].get("tokens")) for step in trained):
        _check_tokens(path, np.array(trained), np.array([float(rows[step]["tokens"]) for step in trained]))
    seen = sorted(step for step, row in rows.items() if _is_number(row.get(loss)) and step <= trained[-1])
    if not seen:
        known = sorted({key for row in rows.values() for key in row if key.endswith("loss") and "forecast" not in key})
        raise UserError(
            f"{path}: metrics.jsonl holds no {loss}; set evaluate.every_steps in the run's config"
            + (f", or name another loss ({', '.join(known)})" if known else "")
        )
    lr_n, applied = _applied(rows, trained)
    declared = warmup_steps
    if declared is None:
        schedule = config.get("schedule")
        declared = schedule.get("warmup_steps") if isinstance(schedule, Mapping) else None
    warmup = min(int(declared), lr_n.size) if declared is not None else detect_warmup(lr_n)
    steps = np.array([applied[step] for step in seen], dtype=np.int64)
    losses = np.array([float(rows[step][loss]) for step in seen])
    keep = np.diff(steps, prepend=0) > 0  # a skipped step changed nothing: its loss is the one before
    curve = Curve(Schedule(lr_n, warmup), steps[keep], loss=losses[keep], name=path.name)
    skipped = trained[-1] - lr_n.size
    notes = (f"{path.name}: {skipped} skipped steps are left out",) if skipped else ()
    return Reading(curve, notes)


def _applied(rows: Mapping[int, Mapping[str, Any]], trained: list[int]) -> tuple[Floats, dict[int, int]]:
    """The lr of every step that changed the weights, and how many of these there were by each step."""
    steps = np.arange(1, trained[-1] + 1)
    lr_n = np.interp(steps, trained, [float(rows[step]["lr"]) for step in trained])
    skipped = np.interp(steps, trained, [_number_or_zero(rows[step].get("skipped_steps")) for step in trained])
    took = np.diff(skipped, prepend=0.0) < 0.5
    return lr_n[took], dict(zip(steps.tolist(), np.cumsum(took).tolist(), strict=True))


def _read_csv(path: Path, warmup_steps: int | None, last_step: int | None) -> Reading:
    columns = read_columns(path, ("step", "lr", "loss"), optional=("tokens",))
    within = columns["step"] <= (math.inf if last_step is None else last_step)
    columns = {name: column[within] for name, column in columns.items()}
    keep = columns["step"] >= 1  # a row of step 0 says its lr, but nothing of training
    if not keep.any():
        raise UserError(f"{path}: no row has a step from 1 to {last_step or 'any'}")
    steps = columns["step"][keep].astype(np.int64)
    if np.any(np.diff(steps) <= 0):
        place = int(np.nonzero(np.diff(steps) <= 0)[0][0])
        raise UserError(
            f"{path}: steps must ascend, but {steps[place + 1]} follows {steps[place]}; one file holds one run"
        )
    if "tokens" in columns:
        _check_tokens(path, steps, columns["tokens"][keep])
    warmup, notes = (warmup_steps, ()) if warmup_steps is not None else _csv_warmup(path, columns, steps)
    try:
        total_steps = int(steps[-1])
        schedule = schedule_from_rows(columns["step"], columns["lr"], total_steps=total_steps, warmup_steps=warmup)
        curve = Curve(schedule, steps, loss=columns["loss"][keep], name=path.stem)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Reading(curve, notes)


def _csv_warmup(path: Path, columns: Mapping[str, Floats], steps: Ints) -> tuple[int, tuple[str, ...]]:
    """The warm-up of a CSV: the rows that rise at its start, or what comes before a late first row."""
    rising = detect_warmup(columns["lr"])
    if rising:
        return int(columns["step"][rising - 1]), ()
    spacing = float(np.median(np.diff(steps))) if steps.size > 1 else 1.0
    if steps[0] <= 2 * spacing:
        return 0, ()
    note = (
        f"{path.name}: the {steps[0]} steps before the first row are taken as a linear warm-up; "
        "warmup_steps says otherwise"
    )
    return int(steps[0]), (note,)


def _metrics(path: Path) -> dict[int, dict[str, Any]]:
    """The lines of metrics.jsonl by step; those of one step are one row."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise UserError(f"{path.parent} is no run folder: it holds no metrics.jsonl") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    rows: dict[int, dict[str, Any]] = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the last line of a run that is being written, or was cut off
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.setdefault(row["step"], {}).update(row)
    return rows


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
    stages = data.get("stages") if isinstance(data, Mapping) else None
    for stage in stages or ():
        first = stage.get("from_step", 0) if isinstance(stage, Mapping) else 0
        if 0 < first < last_step:
            raise UserError(
                f"{path}: the data mix changes at step {first} (data.stages), and no law of the lr covers that; "
                f"fit only the steps before it with last_step = {first}"
            )


def _check_tokens(path: Path, steps: Ints, tokens: Floats) -> None:
    """Refuse a run whose tokens a step change for good; single odd steps pass."""
    per_step = np.diff(tokens) / np.diff(steps)
    if per_step.size < 2:
        return
    block = max(1, min(20, per_step.size // 4))
    medians = np.median(per_step[: per_step.size // block * block].reshape(-1, block), axis=1)
    off = np.nonzero(np.abs(medians / medians[0] - 1) > _TOKENS_CHANGE)[0]
    if off.size:
        step = int(steps[off[0] * block])
        raise UserError(
            f"{path}: the batch size changes near step {step}, from {medians[0]:.0f} to {medians[off[0]]:.0f} tokens a "
            f"step, and the laws count steps; fit only the steps before it with last_step = {step}"
        )


def _number_or_zero(value: Any) -> float:
    return float(value) if _is_number(value) else 0.0


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < _LARGEST if isinstance(value, int) else math.isfinite(value)
