"""A loss curve from a CSV file: step, lr, loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from laws.curve import Floats, Ints, LossCurve, LrCurve, detect_warmup
from laws.reading.csv_columns import read_columns
from laws.reading.reading import Reading, check_tokens, median_batch
from settings import UserError


def read_csv(path: Path, *, warmup_steps: int | None = None, last_step: int | None = None) -> Reading:
    """Reads the curve of a CSV file; the arguments are those of `read_curve`. Raises UserError."""
    columns = read_columns(path, ("step", "lr", "loss"), optional=("tokens",))
    within = columns["step"] <= (math.inf if last_step is None else last_step)
    columns = {name: column[within] for name, column in columns.items()}
    keep = columns["step"] >= 1  # a row of step 0 says its lr, but nothing of training
    if not keep.any():
        raise UserError(f"{path}: no row has a step from 1 to {last_step or 'any'}")
    steps = columns["step"][keep].astype(np.int64)
    if np.any(np.diff(steps) <= 0):
        at = int(np.nonzero(np.diff(steps) <= 0)[0][0])
        raise UserError(f"{path}: steps must ascend, but {steps[at + 1]} follows {steps[at]}; one file holds one run")
    batch_tokens = None
    if "tokens" in columns:
        check_tokens(path, steps, columns["tokens"][keep])
        batch_tokens = median_batch(steps, columns["tokens"][keep])
    warmup, notes = (warmup_steps, ()) if warmup_steps is not None else _csv_warmup(path, columns, steps)
    try:
        total_steps = int(steps[-1])
        schedule = lr_from_rows(columns["step"], columns["lr"], total_steps=total_steps, warmup_steps=warmup)
        curve = LossCurve(schedule, steps, loss=columns["loss"][keep], name=path.stem, batch_tokens=batch_tokens)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Reading(curve, notes)


def _csv_warmup(path: Path, columns: Mapping[str, Floats], steps: Ints) -> tuple[int, tuple[str, ...]]:
    """Returns the warm-up of a CSV: the rows that rise at its start, or all steps before a late first row."""
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


def lr_from_rows(steps: ArrayLike, lr: ArrayLike, *, total_steps: int, warmup_steps: int) -> LrCurve:
    """Returns the lr of every step from the lr of some of them.

    Between rows the lr is linear, except where it jumps: a change between two rows that is over ten times as large as
    the changes on either side is a step in the schedule. It is put in the middle, or at the second row where that comes
    sooner than rows do (a run that was branched off there logs its first step). Steps before the first row are a linear
    warm-up up to `warmup_steps`, then the first row's lr; those after the last row have the last row's.

    `steps` [k]: the 0-based step whose lr the row gives, ascending; lr [k].
    """
    at = np.asarray(steps, dtype=np.float64)
    lr_k = np.asarray(lr, dtype=np.float64)
    change = np.abs(np.diff(lr_k))
    around = np.zeros_like(change)
    around[1:] = change[:-1]
    around[:-1] = np.maximum(around[:-1], change[1:])
    jumps = np.nonzero((change > 10 * around) & (change > 1e-3 * lr_k.max()))[0] if at.size > 2 else np.array([], int)
    soon = np.diff(at)[jumps] < 0.9 * np.median(np.diff(at)) if jumps.size else np.array([], bool)
    jump_at = np.where(soon, at[jumps + 1], np.ceil((at[jumps] + at[jumps + 1]) / 2))
    # Two knots within a step around each jump: np.interp then holds the lr on either side.
    knots = np.concatenate([at, jump_at - 0.75, jump_at - 0.25])
    values = np.concatenate([lr_k, lr_k[jumps], lr_k[jumps + 1]])
    order = np.argsort(knots, kind="stable")
    dense = np.interp(np.arange(total_steps, dtype=np.float64), knots[order], values[order])
    ordinals = np.arange(min(warmup_steps, int(at[0]), total_steps))
    dense[ordinals] = lr_k[0] * (ordinals + 1) / warmup_steps if warmup_steps else lr_k[0]
    return LrCurve(dense, min(warmup_steps, total_steps))
