"""The config of a run with the phases of its schedules as the run folder has recorded them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import accumulate

from launcher.run.branch_origin import branch_origin
from launcher.run.config import RunConfig
from launcher.run.stages import SchedulePart, run_schedule, schedule_parts
from schedules.base import Schedule, ScheduleConfig
from settings import UserError, parse, read_yaml
from train.checkpoint.discovery import state_to_go_on_from
from train.run_folder.branch_record import Origin
from train.run_folder.folder import RunFolder
from train.run_folder.recorded_schedule import SchedulePhases
from train.run_folder.start_record import recorded_schedules

Phases = Mapping[str, SchedulePhases]  # by the key of the schedule in the config


def phases_on_record(config: RunConfig) -> Phases:
    """Returns the phases of `recorded_phases`, for the origin that the config names."""
    return recorded_phases(config, branch_origin(config))


def recorded_phases(config: RunConfig, origin: Origin | None) -> Phases:
    """Returns the phases that the run has recorded, or those of the run from whose checkpoint it begins; else none.

    A run without a checkpoint, or with imported weights, has taken no step yet and decides them anew. So do stages that
    have not begun.
    """
    if origin is not None:
        return _begun(config, _recorded(RunFolder(origin.path)), step=origin.step)
    folder = RunFolder(config.run.path)
    state = state_to_go_on_from(folder.checkpoints)
    return _begun(config, _recorded(folder), step=state.step) if state is not None and state.step else {}


def phases_of(config: RunConfig) -> dict[str, SchedulePhases]:
    """Returns the phases of all schedules of a config, to be recorded.

    A schedule that spans two parts of the run, with another one between, has two lengths: its shares stay shares.
    """
    return {
        part.key: SchedulePhases(name=part.schedule.name, steps=part.steps, phases=part.schedule.phases(part.steps))
        for part in _single_parts(config)
    }


def with_phases(config: RunConfig, phases: Phases) -> RunConfig:
    """Returns the config with these steps for the phases of its schedules that it leaves null.

    Raises UserError if they do not fit the length of the run.
    """
    filled = config
    for part in _single_parts(config):
        if part.key in phases:
            filled = _with_schedule(filled, part.key, phases[part.key].fill(part.schedule))
    if filled != config:
        try:
            run_schedule(filled)
        except UserError as error:
            raise UserError("\n".join([str(error), *_explanations(config, phases)])) from None
    return filled


def schedule_with(phases: Phases, config: RunConfig) -> Schedule:
    """Returns the schedule of a run with these phases. Raises UserError as `with_phases` and `run_schedule` do."""
    return run_schedule(with_phases(config, phases))


def phase_notes(config: RunConfig, phases: Phases) -> list[str]:
    """Returns a note for each schedule that has another length than when its phases were recorded, and keeps some."""
    return _explanations(config, phases, only_changed=True)


def _recorded(folder: RunFolder) -> Phases:
    """Returns the phases that a run has recorded; those of its config.yaml if an earlier version trained it."""
    recorded = recorded_schedules(folder.path)
    if recorded:
        return recorded
    try:
        return phases_of(parse(RunConfig, read_yaml(folder.config), source=str(folder.config)))
    except UserError:
        return {}


def _begun(config: RunConfig, phases: Phases, *, step: int) -> Phases:
    """Returns the phases of the schedules that begin before the 0-based step `step`."""
    parts = schedule_parts(config)
    starts = accumulate((part.steps for part in parts), initial=0)
    keys = {part.key for part, start in zip(parts, starts, strict=False) if start < step}
    return {key: recorded for key, recorded in phases.items() if key in keys}


def _single_parts(config: RunConfig) -> list[SchedulePart]:
    parts = schedule_parts(config)
    counts = Counter(part.key for part in parts)
    return [part for part in parts if counts[part.key] == 1]


def _with_schedule(config: RunConfig, key: str, schedule: ScheduleConfig) -> RunConfig:
    """Returns the config with another schedule under a key: `schedule` or `stages.N.schedule`."""
    if key == "schedule":
        return config.model_copy(update={"schedule": schedule})
    number = int(key.split(".")[1])
    stages = list(config.stages)
    stages[number] = stages[number].model_copy(update={"schedule": schedule})
    return config.model_copy(update={"stages": tuple(stages)})


def _explanations(config: RunConfig, phases: Phases, *, only_changed: bool = False) -> list[str]:
    lines = []
    for part in _single_parts(config):
        recorded = phases.get(part.key)
        if recorded is None or recorded.name != part.schedule.name or (only_changed and recorded.steps == part.steps):
            continue
        kept = [key for key in recorded.phases if getattr(part.schedule, key) is None]
        if kept:
            values = ", ".join(f"{part.key}.{key} = {recorded.phases[key]}" for key in kept)
            lines.append(
                f"{part.key} keeps the phases that were recorded when it had {recorded.steps} steps: {values}. State "
                "another value to change what is to come; the lr of the steps taken must stay the same."
            )
    return lines
