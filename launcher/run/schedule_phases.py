"""The config of a run with the phases of its schedule as the run folder has recorded them."""

from __future__ import annotations

from launcher.run.branching import branch_origin
from launcher.run.config import RunConfig
from settings import UserError
from train.checkpoint.discovery import state_to_go_on_from
from train.run_folder.folder import RunFolder
from train.run_folder.recorded_schedule import SchedulePhases
from train.run_folder.start_record import recorded_phases


def phases_on_record(config: RunConfig) -> SchedulePhases | None:
    """Returns the phases that the run has recorded, or for a branch to come those of its parent; else None.

    A run without a checkpoint, or with imported weights, has taken no step yet and decides them anew.
    """
    origin = branch_origin(config)
    if origin is not None:
        return recorded_phases(origin.path)
    state = state_to_go_on_from(RunFolder(config.run.path).checkpoints)
    return recorded_phases(config.run.path) if state is not None and state.step else None


def with_phases(config: RunConfig, phases: SchedulePhases | None) -> RunConfig:
    """Returns the config with these steps for the phases of the schedule that it leaves null.

    Raises UserError if they do not fit the length of the run.
    """
    if phases is None:
        return config
    filled = config.model_copy(update={"schedule": phases.fill(config.schedule)})
    if filled.schedule != config.schedule:
        try:
            filled.schedule.build(peak_lr=config.optim.lr, total_steps=config.train.steps)
        except UserError as error:
            raise UserError(f"{error}\n{_explanation(config, phases)}") from None
    return filled


def phase_notes(config: RunConfig, phases: SchedulePhases | None) -> list[str]:
    """Returns a note if the run has another length than when its phases were recorded, and keeps some of them."""
    if phases is None or phases.steps == config.train.steps or phases.fill(config.schedule) == config.schedule:
        return []
    return [_explanation(config, phases)]


def _explanation(config: RunConfig, phases: SchedulePhases) -> str:
    kept = [key for key in phases.phases if getattr(config.schedule, key) is None]
    values = ", ".join(f"schedule.{key} = {phases.phases[key]}" for key in kept)
    return (
        f"The schedule keeps the phases that were recorded with train.steps = {phases.steps}: "
        f"{values}. State another value to change what is to come; the lr of the steps taken must stay the same."
    )
