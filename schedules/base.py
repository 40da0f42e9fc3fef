"""Schedules: the lr of a step as a pure function of the step, the same to the bit on every machine.

Steps are counted from 0; `ordinal` = step + 1 counts the steps of the run from 1 to total_steps. Warm-up is linear and
reaches the peak at ordinal warmup_steps. The rest of the schedule starts from the peak there (at the first step,
without warm-up) and reaches its last value at ordinal total_steps, both exactly. Later steps keep the last value.

Legend of shapes: n steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from schedules.search_space import SearchLimits, Trial
from settings import Registry, Settings, UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LrOfOrdinals = Callable[[Ints], Floats]
"""ordinals [n], ascending, each from 1 to total_steps -> lr [n]"""


@dataclass(frozen=True)
class Schedule:
    """The lr of every step of a run of `total_steps` steps."""

    total_steps: int
    of_ordinals: LrOfOrdinals

    def __call__(self, step: int) -> float:
        """Returns the lr of one 0-based step: the same bits as in `lr`."""
        return float(self.lr([step])[0])

    def lr(self, steps: ArrayLike) -> Floats:
        """Returns the lr of the 0-based steps [n], which ascend."""
        step_n = np.asarray(steps, dtype=np.int64)
        assert np.all(np.diff(step_n, prepend=0) >= 0), "steps must ascend from 0"
        return self.of_ordinals(np.minimum(step_n + 1, self.total_steps))

    def every_step(self) -> Floats:
        """Returns the lr of all steps of the run [total_steps]."""
        return self.of_ordinals(np.arange(1, self.total_steps + 1))


class ScheduleConfig(Settings):
    """The settings of a schedule; `build` makes the schedule of a run."""

    name: str = Field(description="Name of the schedule.")

    def build(self, *, peak_lr: float, total_steps: int) -> Schedule:
        """Builds the schedule of a run. Raises UserError if the settings do not fit the run."""
        raise AssertionError(f"{type(self).__name__} has no build")

    def stated_warmup(self) -> int | None:
        """Returns how many steps of warm-up the settings state; None if they state none (a table)."""
        return None

    def phases(self, total_steps: int) -> dict[str, int]:
        """Returns the keys that are a share of the run if they are null, each with its steps in a run of this length.

        A run records them when it begins, and keeps them if it becomes longer.
        """
        return {}

    def with_phases(self, phases: Mapping[str, int]) -> Self:
        """Returns this schedule with the recorded steps for those of its phases that are null."""
        nulls = {key: steps for key, steps in phases.items() if getattr(self, key, steps) is None}
        return self.model_copy(update=nulls)

    def file_values(self) -> tuple[float, ...]:
        """Returns the lr of each step if a file holds it; empty if all follows from the config."""
        return ()

    @classmethod
    def search_space(cls, limits: SearchLimits) -> tuple[Trial, ...]:
        """Returns the settings that a search for the best schedule tries; empty if there is nothing to choose."""
        return ()

    @classmethod
    def examples(cls, folder: Path) -> tuple[ScheduleConfig, ...]:
        """Returns configs of every kind for the contract tests; files that they need are written into `folder`.

        Phases are left to their defaults, which scale with the run.
        """
        return (cls.model_validate({}),)


SCHEDULES = Registry("schedule", room="schedules", base=ScheduleConfig)


class WarmedConfig(ScheduleConfig):
    """A linear warm-up to the peak, then `after_warmup`."""

    warmup_steps: int = Field(0, ge=0, description="Steps over which the lr rises linearly to the peak.")

    def build(self, *, peak_lr: float, total_steps: int) -> Schedule:
        """Builds the schedule of a run. Raises UserError if the settings do not fit the run."""
        if total_steps < 1:
            raise UserError(f"train.steps = {total_steps} must be at least 1")
        if self.warmup_steps > total_steps:
            raise UserError(
                f"schedule.warmup_steps = {self.warmup_steps} must be at most train.steps = {total_steps}; lower it"
            )
        warmup_steps, start = self.warmup_steps, max(self.warmup_steps, 1)
        after = self.after_warmup(peak_lr=peak_lr, start=start, total_steps=total_steps)
        if warmup_steps == 0:
            return Schedule(total_steps, after)

        def lr(ordinal_n: Ints) -> Floats:
            warm = np.searchsorted(ordinal_n, warmup_steps)
            return np.concatenate([peak_lr * (ordinal_n[:warm] / warmup_steps), after(ordinal_n[warm:])])

        return Schedule(total_steps, lr)

    def stated_warmup(self) -> int | None:
        """Returns warmup_steps."""
        return self.warmup_steps

    def after_warmup(self, *, peak_lr: float, start: int, total_steps: int) -> LrOfOrdinals:
        """Returns the lr of the ordinals from `start`, where it is the peak, to total_steps. Raises UserError."""
        raise AssertionError(f"{type(self).__name__} has no after_warmup")

    @classmethod
    def search_space(cls, limits: SearchLimits) -> tuple[Trial, ...]:
        """Returns one trial: the default settings."""
        return (Trial(cls._limited(limits)),)

    @classmethod
    def _limited(cls, limits: SearchLimits) -> dict[str, Any]:
        """Returns the settings that the limits fix."""
        return {"warmup_steps": limits.warmup_steps}


class DecayingConfig(WarmedConfig):
    """A schedule that ends at min_lr."""

    min_lr: float = Field(0.0, ge=0, description="Lr of the last step, absolute.")

    def check_min_lr(self, peak_lr: float) -> None:
        """Raises UserError if min_lr is above the peak."""
        if self.min_lr > peak_lr:
            raise UserError(f"schedule.min_lr = {self.min_lr} must be at most optim.lr = {peak_lr}; lower it")

    @classmethod
    def _limited(cls, limits: SearchLimits) -> dict[str, Any]:
        return {"min_lr": limits.min_lr, **super()._limited(limits)}
