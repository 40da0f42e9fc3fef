"""The phases of a run's schedule: recorded when the run begins, so that a longer run does not rewrite its past.

A phase that the config leaves null is a share of the run. It becomes an absolute number of steps at the first start.
Later starts keep it, unless the config states another number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from schedules.base import SCHEDULES, ScheduleConfig
from settings import Settings, UserError, read_yaml
from train.run_folder.folder import RunFolder


class SchedulePhases(Settings):
    """The phases of one schedule, in absolute steps."""

    name: str = Field(description="the schedule")
    steps: int = Field(description="train.steps when they were recorded")
    phases: dict[str, int] = Field({}, description="the keys of the schedule that can be shares, with their steps")

    def fill(self, schedule: ScheduleConfig) -> ScheduleConfig:
        """Returns the schedule with these steps for its phases that are null, if it is the same schedule."""
        return schedule.with_phases(self.phases) if schedule.name == self.name else schedule


def phases_of(schedule: ScheduleConfig, total_steps: int) -> SchedulePhases:
    """Returns the phases of a schedule in a run of `total_steps`."""
    return SchedulePhases(name=schedule.name, steps=total_steps, phases=schedule.phases(total_steps))


def config_phases(folder: RunFolder) -> SchedulePhases | None:
    """Returns the phases that a run's config.yaml gives, for a run that did not record them; None without a run."""
    try:
        plain = read_yaml(folder.config)
        return phases_of(SCHEDULES.parse(plain["schedule"]), int(plain["train"]["steps"]))
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
    schedule = SCHEDULES.parse(plain["schedule"])
    if phases is not None:
        schedule = phases.fill(schedule)
    return schedule.build(peak_lr=plain["optim"]["lr"], total_steps=plain["train"]["steps"]).lr(range(steps))
