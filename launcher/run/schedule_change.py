"""A warning for a run that is continued with another number of steps, so that its learning rate jumps."""

from __future__ import annotations

from launcher.run.config import RunConfig
from launcher.run.schedule_phases import Phases, schedule_with
from settings import UserError, parse, read_yaml
from train.checkpoint.discovery import state_to_go_on_from
from train.run_folder.folder import RunFolder


def schedule_change_warnings(config: RunConfig, phases: Phases) -> list[str]:
    """Returns a warning if `train.steps` has changed since the last start, and the lr of the next step with it.

    `check_run` must have found that the run folder continues with `config`. `phases`: those that it has recorded.
    """
    folder = RunFolder(config.run.path)
    state = state_to_go_on_from(folder.checkpoints)
    if state is None or not state.step:
        return []
    steps = config.train.steps
    try:
        before = parse(RunConfig, read_yaml(folder.config), source=str(folder.config))
        recorded = before.train.steps
        old_lr, new_lr = (schedule_with(phases, each)(state.step) for each in (before, config))
    except UserError:  # the record was edited by hand
        return []
    if old_lr == new_lr:
        return []
    which, remedy = f"schedule {config.schedule.name}", f"train.steps = {recorded}"
    if config.stages:
        which, remedy = "the schedule of the stage", "the steps of the stage, and add another one,"
    return [
        f"train.steps = {steps}, and {recorded} when the run was last started: {which} is stretched to the new length, "
        f"so that lr jumps at step {state.step + 1} to {new_lr:.4g}, from the {old_lr:.4g} of the old length; keep "
        f"{remedy} to continue the old schedule"
    ]
