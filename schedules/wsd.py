"""WSD: warm-up, stable, decay (arXiv 2404.06395)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
from pydantic import Field

from schedules.base import SCHEDULES, DecayingConfig, LrOfOrdinals, ScheduleConfig
from schedules.search_space import SearchLimits, Trial
from schedules.shapes import SHAPES, segment
from settings import UserError

Tail = Literal["linear", "cosine", "one_minus_sqrt", "exponential"]
_LENGTHS_TRIED = 16


@SCHEDULES.register
class WsdConfig(DecayingConfig):
    """The peak until decay_steps before the end, then a tail to min_lr."""

    name: Literal["wsd"] = "wsd"
    decay_steps: int | None = Field(
        None, ge=1, description="Steps of the tail; null means a fifth of the run, rounded."
    )
    tail: Tail = Field("one_minus_sqrt", description="Curve of the tail.")

    def after_warmup(self, *, peak_lr: float, start: int, total_steps: int) -> LrOfOrdinals:
        """Returns the stable phase and the tail. Raises UserError if the tail does not fit or never ends."""
        self.check_min_lr(peak_lr)
        if self.tail == "exponential" and self.min_lr == 0:
            raise UserError("schedule.min_lr = 0 is never reached by schedule.tail = exponential; set it above 0")
        decay_steps = self.phases(total_steps)["decay_steps"]
        decay_start = total_steps - decay_steps
        if decay_start < start and decay_steps > 0:
            raise UserError(
                f"schedule.decay_steps = {decay_steps} must leave room for the warm-up: at most "
                f"{total_steps - start} with train.steps = {total_steps} and warmup_steps = {self.warmup_steps}"
            )
        return segment(SHAPES[self.tail], peak_lr, self.min_lr, decay_start, total_steps)

    def phases(self, total_steps: int) -> dict[str, int]:
        """Returns the length of the tail."""
        if self.decay_steps is not None:
            return {"decay_steps": self.decay_steps}
        return {"decay_steps": min(round(total_steps / 5), total_steps - max(self.warmup_steps, 1))}

    @classmethod
    def search_space(cls, limits: SearchLimits) -> tuple[Trial, ...]:
        """Returns every tail, over lengths up to the longest allowed."""
        room = limits.total_steps - limits.start
        most = max(1, min(room, round(limits.max_decay_share * limits.total_steps)))
        lengths = tuple(np.unique(np.round(np.geomspace(1, most, _LENGTHS_TRIED)).astype(int)).tolist())
        fixed = cls._limited(limits)
        return tuple(
            Trial({"decay_steps": lengths[0], "tail": tail, **fixed}, varied="decay_steps", grid=lengths)
            for tail in get_args(Tail)
            if not (tail == "exponential" and limits.min_lr == 0)
        )

    @classmethod
    def examples(cls, folder: Path) -> tuple[ScheduleConfig, ...]:
        """Returns every tail."""
        return tuple(cls(tail=tail, min_lr=1e-5) for tail in get_args(Tail))
