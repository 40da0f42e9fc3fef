"""The config of a run with the phases of its schedule as the run folder has recorded them."""

from __future__ import annotations

from launcher.run.branching import branch_origin
from launcher.run.config import RunConfig
from launcher.run.stages import config_parts, run_schedule
from settings import UserError
from train.checkpoint.discovery import state_to_go_on_from
from train.run_folder.folder import RunFolder
from train.run_folder.recorded_schedule import SchedulePhases
from train.run_folder.start_record import recorded_phases
from train.run_schedule import RUN_SCHEDULE


def phases_on_record(config: RunConfig) -> SchedulePhases | None:
    """Returns the phases that the run has recorded, or for a branch to come those of its parent; else None.

    A run without a checkpoint, or with imported weights, has taken no step yet and decides them anew. So do stages that
    have not begun.
    """
    origin = branch_origin(config)
    if origin is not None:
        recorded, step = recorded_phases(origin.path), origin.step
    else:
        state = state_to_go_on_from(RunFolder(config.run.path).checkpoints)
        step = state.step if state else 0
        recorded = recorded_phases(config.run.path) if step else None
    return recorded.begun(config_parts(config), step=step) if recorded else None


def with_phases(config: RunConfig, phases: SchedulePhases | None) -> RunConfig:
    """Returns the config with these steps for the phases of its schedules that it leaves null.

    Raises UserError if they do not fit the steps that a schedule spans.
    """
    if phases is None:
        return config
    stages = tuple(
        stage
        if stage.schedule is None or (recorded := phases.stages.get(f"stages.{number}.schedule")) is None
        else stage.model_copy(update={"schedule": recorded.fill(stage.schedule)})
        for number, stage in enumerate(config.stages)
    )
    filled = config.model_copy(update={"schedule": phases.fill(config.schedule), "stages": stages})
    if filled != config:
        try:
            run_schedule(filled)
        except UserError as error:
            notes = [_explanation(key, kept) for key, kept in _kept(config, phases)]
            raise UserError("\n".join([str(error), *notes])) from None
    return filled


def phase_notes(config: RunConfig, phases: SchedulePhases | None) -> list[str]:
    """Returns a note for each schedule that has another length than when its phases were recorded, and keeps some."""
    if phases is None:
        return []
    lengths = {part.key: part.steps for part in config_parts(config)}
    return [_explanation(key, kept) for key, kept in _kept(config, phases) if kept.steps != lengths[key]]


def _kept(config: RunConfig, phases: SchedulePhases) -> list[tuple[str, SchedulePhases]]:
    """Returns for each schedule of the run that keeps recorded phases its key, and these phases alone."""
    found = []
    for part in config_parts(config):
        recorded = phases if part.key == RUN_SCHEDULE else phases.stages.get(part.key)
        if recorded is None or recorded.name != part.schedule.name:
            continue
        kept = {key: steps for key, steps in recorded.phases.items() if getattr(part.schedule, key) is None}
        if kept:
            found.append((part.key, recorded.model_copy(update={"phases": kept})))
    return found


def _explanation(key: str, kept: SchedulePhases) -> str:
    values = ", ".join(f"{key}.{name} = {steps}" for name, steps in kept.phases.items())
    length = "train.steps" if key == RUN_SCHEDULE else "steps of the stage"
    return (
        f"The schedule keeps the phases that were recorded with {length} = {kept.steps}: {values}. State another value "
        "to change what is to come; the lr of the steps taken must stay the same."
    )
