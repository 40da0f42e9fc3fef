"""What a run that goes on with another number of steps should know of its learning rate."""

from __future__ import annotations

from launcher.run.config import RunConfig
from settings import UserError, read_yaml
from train.checkpoint.discovery import state_to_go_on_from
from train.run_folder.folder import RunFolder


def schedule_change_warnings(config: RunConfig) -> list[str]:
    """A warning where `train.steps` is not what the run was last started with, and the next step's lr another for it.

    For a run folder that `check_run` has found to go on with `config`.
    """
    folder = RunFolder(config.run.path)
    state = state_to_go_on_from(folder.checkpoints)
    if state is None or not state.step:
        return []
    recorded, steps = read_yaml(folder.config).get("train", {}).get("steps"), config.train.steps
    try:
        then, now = (
            config.schedule.build(peak_lr=config.optim.lr, total_steps=total)(state.step) for total in (recorded, steps)
        )
    except (UserError, TypeError):  # the recorded number was altered by hand, and may be none
        return []
    if then == now:
        return []
    return [
        f"train.steps = {steps}, and {recorded} when the run was last started: schedule {config.schedule.name} is "
        f"drawn anew over the new length, so that lr jumps at step {state.step + 1} to {now:.4g}, from the {then:.4g} "
        f"that it would have had; keep train.steps = {recorded} to have the schedule go on"
    ]
