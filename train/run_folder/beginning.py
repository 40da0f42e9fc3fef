"""Where a start begins, and why. Metrics that no checkpoint replaces are kept aside, not erased."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from settings.files import explained
from settings.jsonl import read_json_lines
from train.checkpoint.manifest import folder_name
from train.held_out_loss import HELD_OUT_LOSS
from train.run_folder.folder import RunFolder
from train.run_folder.start_record import recorded_starts
from train.state import TrainState


def begin(folder: RunFolder, state: TrainState | None, *, total_steps: int) -> tuple[str, list[str]]:
    """Returns the line that says at which step this start begins and why, and warnings of what the folder lacks.

    `state` is that of the loaded checkpoint, or None if there is none. Then what was logged before is renamed, since
    the steps to come would overwrite it. A start calls this after it has recorded itself. Raises RunError.
    """
    with explained("reading the metrics of the run"):
        logged = _logged(folder.metrics)
        steps, garbled = logged.steps, logged.garbled_lines
        warnings = []
        if state is None and (steps or garbled):
            return f"Starts at step 1: the run folder has no checkpoint. {_set_aside(folder, steps)}", []
        if garbled:
            kept = _free_place(folder)
            shutil.copy(folder.metrics, folder.metrics_kept(kept))
            warnings.append(
                f"metrics.jsonl holds {garbled} garbled line{'s' if garbled > 1 else ''}, which this start drops; "
                f"the file as it was is kept as {folder.metrics_kept(kept).name}"
            )
    if state is None:
        reason = "the run folder is new" if recorded_starts(folder.path) < 2 else "the run folder has no checkpoint yet"
        return f"Starts at step 1: {reason}.", []
    warnings += _gap_warnings(logged, state)
    return _resume_line(state.step, later=max(steps, default=0), total_steps=total_steps), warnings


def _resume_line(step: int, *, later: int, total_steps: int) -> str:
    name = folder_name(step)
    if step >= total_steps:
        return f"Nothing is left to train: checkpoint {name} has taken all {total_steps} steps."
    again = f" Steps {step + 1} to {later} are taken again." if later > step else ""
    if step == 0:
        return f"Starts at step 1 with the weights of checkpoint {name}.{again}"
    return f"Goes on from step {step}: checkpoint {name} is the newest complete one.{again}"


def _gap_warnings(logged: _Logged, state: TrainState) -> list[str]:
    """Returns a warning if metrics.jsonl lacks the last steps that the checkpoint has taken, or its last evaluation."""
    step, evaluated = state.step, state.evaluated_step
    last = max((one for one in logged.steps if one <= step), default=0)
    if last != step:
        held = f"ends at step {last}" if last else "holds none of the steps so far"
        return [f"metrics.jsonl {held}, and the checkpoint is of step {step}: the steps before that stay missing in it"]
    if evaluated in logged.steps - logged.evaluated_steps:
        return [
            f"metrics.jsonl has no held-out loss of step {evaluated}, which the checkpoint has evaluated: it stays "
            "missing in it"
        ]
    return []


class _Logged(NamedTuple):
    """The content of metrics.jsonl."""

    steps: set[int]
    evaluated_steps: set[int]
    garbled_lines: int  # besides a last one that was cut off


def _logged(path: Path) -> _Logged:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return _Logged(set(), set(), 0)
    read = read_json_lines(path)
    cut_off = bool(lines) and (not read or read[-1][0].encode() != lines[-1])
    return _Logged(
        {values["step"] for _, values in read},
        {values["step"] for _, values in read if HELD_OUT_LOSS in values},
        max(len(lines) - len(read) - cut_off, 0),
    )


def _set_aside(folder: RunFolder, steps: set[int]) -> str:
    """Renames metrics.jsonl and TensorBoard's files. Returns a sentence with their new names."""
    number = _free_place(folder)
    names = []
    for path, kept in (
        (folder.metrics, folder.metrics_kept(number)),
        (folder.tensorboard, folder.tensorboard_kept(number)),
    ):
        if path.exists():
            path.rename(kept)
            names.append(kept.name)
    return f"What an earlier start logged, up to step {max(steps, default=0)}, is kept as {' and '.join(names)}."


def _free_place(folder: RunFolder) -> int:
    number = 1
    while folder.metrics_kept(number).exists() or folder.tensorboard_kept(number).exists():
        number += 1
    return number
