"""The infinite schedule (arXiv 2403.08763).

The default phases are those of a third party's code for the follow-up, arXiv 2503.02844.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from pydantic import Field

from schedules.base import SCHEDULES, DecayingConfig, Floats, Ints, LrOfOrdinals, ScheduleConfig
from schedules.search_space import SearchLimits, Trial
from schedules.shapes import SHAPES, exponential, segment
from settings import UserError

Cooldown = Literal["cosine", "inverse_sqrt"]
_LEAST_OF_PEAK = 1e-3  # the lowest min_lr that a search tries: an exponential anneal cannot reach 0


@SCHEDULES.register
class InfiniteConfig(DecayingConfig):
    """Warm-up, cool-down to a constant, constant, exponential anneal.

    New data goes on from the end of the constant phase, without a new warm-up.
    """

    name: Literal["infinite"] = "infinite"
    min_lr: float = Field(1e-5, gt=0, description="Lr of the last step, absolute.")
    constant_lr: float | None = Field(
        None, gt=0, description="Lr of the constant phase, absolute; null means half the peak, but at least min_lr."
    )
    cooldown: Cooldown = Field("cosine", description="Curve of the cool-down.")
    cooldown_end_step: int | None = Field(
        None, ge=0, description="Last step of the cool-down; null means 15% of the run, or the end of a longer warm-up."
    )
    constant_end_step: int | None = Field(
        None, ge=0, description="Last step of the constant phase; null means 80% of the run."
    )

    def after_warmup(self, *, peak_lr: float, start: int, total_steps: int) -> LrOfOrdinals:
        """Returns the three phases. Raises UserError if they do not follow each other."""
        self.check_min_lr(peak_lr)
        constant_lr = max(peak_lr / 2, self.min_lr) if self.constant_lr is None else self.constant_lr
        if not self.min_lr <= constant_lr <= peak_lr:
            raise UserError(
                f"schedule.constant_lr = {constant_lr} must lie between schedule.min_lr = {self.min_lr} "
                f"and optim.lr = {peak_lr}"
            )
        phases = self.phases(total_steps)
        cooldown_end, constant_end = phases["cooldown_end_step"], phases["constant_end_step"]
        if not start <= cooldown_end <= constant_end <= total_steps:
            raise UserError(
                f"schedule: the phases must follow each other: warm-up to step {start}, "
                f"cooldown_end_step = {cooldown_end}, constant_end_step = {constant_end}, train.steps = {total_steps}"
            )
        cool = segment(SHAPES[self.cooldown], peak_lr, constant_lr, start, cooldown_end)
        anneal = segment(exponential, constant_lr, self.min_lr, constant_end, total_steps)

        def lr(ordinal_n: Ints) -> Floats:
            annealed = np.searchsorted(ordinal_n, constant_end + 1)
            return np.concatenate([cool(ordinal_n[:annealed]), anneal(ordinal_n[annealed:])])

        return lr

    def phases(self, total_steps: int) -> dict[str, int]:
        """Returns the last steps of the cool-down and of the constant phase."""
        cooldown_end, constant_end = self.cooldown_end_step, self.constant_end_step
        if cooldown_end is None:
            cooldown_end = min(max(self.warmup_steps, 1, round(0.15 * total_steps)), total_steps)
        if constant_end is None:
            constant_end = min(max(cooldown_end, round(0.8 * total_steps)), total_steps)
        return {"cooldown_end_step": cooldown_end, "constant_end_step": constant_end}

    @classmethod
    def search_space(cls, limits: SearchLimits) -> tuple[Trial, ...]:
        """Returns a grid over the level of the constant phase and the lengths of the cool-down and the anneal."""
        steps, start = limits.total_steps, limits.start
        least = max(limits.min_lr, _LEAST_OF_PEAK * limits.peak_lr)
        shares = (0.1, 0.2, 0.4)
        return tuple(
            Trial(
                {
                    "constant_lr": max(level * limits.peak_lr, least),
                    "cooldown_end_step": min(max(start, round(cooldown * steps)), steps),
                    "constant_end_step": max(start, round((1 - anneal) * steps), round(cooldown * steps)),
                    **cls._limited(limits),
                    "min_lr": least,
                }
            )
            for level, cooldown, anneal in itertools.product((0.3, 0.5, 0.7, 0.9), shares, shares)
        )

    @classmethod
    def examples(cls, folder: Path) -> tuple[ScheduleConfig, ...]:
        """Returns both cool-downs."""
        return tuple(cls(cooldown=cooldown) for cooldown in get_args(Cooldown))
