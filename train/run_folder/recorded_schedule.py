"""The phases of a run's schedule: recorded when the run begins, so that a longer run does not rewrite its past.

A phase that the config leaves null is a share of the run. It becomes an absolute number of steps at the first start.
Later starts keep it, unless the config states another number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
from pydantic import Field

from schedules.base import ScheduleConfig
from settings import Settings, UserError, read_yaml
from train.run_folder.folder import RunFolder
from train.run_schedule import RUN_SCHEDULE, SchedulePart, build_schedule, parts_of_plain


class SchedulePhases(Settings):
    """The phases of one schedule, in absolute steps; those of the run's schedule hold those of the stages' too."""

    name: str = Field(description="the schedule")
    steps: int = Field(description="the steps that it spanned when they were recorded: train.steps without stages")
    phases: dict[str, int] = Field({}, description="the keys of the schedule that can be shares, with their steps")
    stages: dict[str, SchedulePhases] = Field({}, description="of the stages' own schedules, by their keys")

    def fill(self, schedule: ScheduleConfig) -> ScheduleConfig:
        """Returns the schedule with these steps for its phases that are null, if it is the same schedule."""
        return schedule.with_phases(self.phases) if schedule.name == self.name else schedule

    def fill_part(self, part: SchedulePart) -> SchedulePart:
        """Returns the part of a run's schedule with the recorded steps for its phases that are null."""
        recorded = self if part.key == RUN_SCHEDULE else self.stages.get(part.key)
        return part if recorded is None else replace(part, schedule=recorded.fill(part.schedule))

    def begun(self, parts: Sequence[SchedulePart], *, step: int) -> SchedulePhases:
        """Returns these phases without those of stages that begin at `step` or later, which may still change."""
        starts = accumulate((part.steps for part in parts), initial=0)
        keys = {part.key for part, start in zip(parts, starts, strict=False) if start < step}
        stages = {key: phases for key, phases in self.stages.items() if key in keys}
        return self.model_copy(update={"stages": stages})


def phases_of(parts: Sequence[SchedulePart]) -> SchedulePhases:
    """Returns the phases of a run's schedule, and of the schedules of its stages."""
    own = [part for part in parts if part.key == RUN_SCHEDULE]
    stages = {part.key: _phases(part) for part in parts if part.key != RUN_SCHEDULE}
    if len(own) == 1:
        return _phases(own[0]).model_copy(update={"stages": stages})
    # Its phases are steps of one length: where it comes several times, each has those of its own length.
    return SchedulePhases(name="", steps=sum(part.steps for part in parts), stages=stages)


def _phases(part: SchedulePart) -> SchedulePhases:
    return SchedulePhases(name=part.schedule.name, steps=part.steps, phases=part.schedule.phases(part.steps))


def config_phases(folder: RunFolder) -> SchedulePhases | None:
    """Returns the phases that a run's config.yaml gives, for a run that did not record them; None without a run."""
    try:
        return phases_of(parts_of_plain(read_yaml(folder.config)))
    except (UserError, KeyError, TypeError, ValueError):
        return None


def keeps_past_lr(
    there: Mapping[str, Any], here: Mapping[str, Any], phases: SchedulePhases | None, *, steps_taken: int
) -> bool:
    """Returns whether two configs, as plain values, give the first `steps_taken` steps the same lr to the bit.

    Phases that either leaves null have the recorded number of steps.
    """
    try:
        past, future = (_lr(plain, phases, steps_taken) for plain in (there, here))
    except (UserError, KeyError, TypeError, ValueError):  # edited by hand, or of another version
        return False
    return bool(np.array_equal(past, future))


def lr_at(plain: Mapping[str, Any], phases: SchedulePhases | None, *, step: int) -> float | None:
    """Returns the lr that a config, as plain values, gives the 0-based step; None if it cannot be read."""
    try:
        return float(_lr(plain, phases, step + 1)[step])
    except (UserError, KeyError, TypeError, ValueError):
        return None


def _lr(plain: Mapping[str, Any], phases: SchedulePhases | None, steps: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    parts = parts_of_plain(plain)
    if phases is not None:
        parts = [phases.fill_part(part) for part in parts]
    return build_schedule(parts).lr(range(steps))
