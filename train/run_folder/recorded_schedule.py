"""The phases of a run's schedules: recorded when the run begins, so that a longer run does not rewrite its past.

A phase that the config leaves null is a share of the steps that its schedule spans. It becomes an absolute number of
steps at the first start. Later starts keep it, unless the config states another number.
"""

from __future__ import annotations

from pydantic import Field

from schedules.base import ScheduleConfig
from settings import Settings


class SchedulePhases(Settings):
    """The phases of one schedule, in absolute steps."""

    name: str = Field(description="the schedule")
    steps: int = Field(description="the steps that it spanned when they were recorded")
    phases: dict[str, int] = Field({}, description="the keys of the schedule that can be shares, with their steps")

    def fill(self, schedule: ScheduleConfig) -> ScheduleConfig:
        """Returns the schedule with these steps for its phases that are null, if it is the same schedule."""
        return schedule.with_phases(self.phases) if schedule.name == self.name else schedule
