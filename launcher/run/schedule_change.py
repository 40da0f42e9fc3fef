"""A warning for a run that is continued with another number of steps, so that its learning rate jumps."""

from __future__ import annotations

from itertools import accumulate

from launcher.run.config import RunConfig
from launcher.run.schedule_phases import Phases, schedule_with
from launcher.run.stages import SchedulePart, schedule_parts
from settings import UserError, parse, read_yaml
from train.checkpoint.discovery import state_to_go_on_from
from train.run_folder.folder import RunFolder


def schedule_change_warnings(config: RunConfig, phases: Phases) -> list[str]:
    """Returns a warning if the schedule of the next step has another length than at the last start, and another lr.

    `check_run` must have found that the run folder continues with `config`. `phases`: those that it has recorded.
    """
    folder = RunFolder(config.run.path)
    state = state_to_go_on_from(folder.checkpoints)
    if state is None or not state.step:
        return []
    try:
        before = parse(RunConfig, read_yaml(folder.config), source=str(folder.config))
        old_lr, new_lr = (schedule_with(phases, each)(state.step) for each in (before, config))
    except UserError:  # the record was edited by hand
        return []
    old, new = (_part_at(each, state.step) for each in (before, config))
    if old_lr == new_lr or old.steps == new.steps:
        return []
    if config.stages:
        changed = f"{new.key} spans stages of {new.steps} steps, and of {old.steps}"
        remedy = "the steps of the stage, and add another one with a schedule of its own,"
    else:
        changed, remedy = f"train.steps = {new.steps}, and {old.steps}", f"train.steps = {old.steps}"
    return [
        f"{changed} when the run was last started: schedule {new.schedule.name} is stretched to the new length, so "
        f"that lr jumps at step {state.step + 1} to {new_lr:.4g}, from the {old_lr:.4g} of the old length; keep "
        f"{remedy} to continue the old schedule"
    ]


def _part_at(config: RunConfig, step: int) -> SchedulePart:
    """Returns the schedule that the 0-based step `step` has; the last one if the run has ended before it."""
    parts = schedule_parts(config)
    ends = accumulate(part.steps for part in parts)
    return next((part for part, end in zip(parts, ends, strict=True) if step < end), parts[-1])
