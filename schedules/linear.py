"""Linear decay."""

from __future__ import annotations

from typing import Literal

from schedules.base import SCHEDULES, DecayingConfig, LrOfOrdinals
from schedules.shapes import linear, segment


@SCHEDULES.register
class LinearConfig(DecayingConfig):
    """A straight line from the peak to min_lr."""

    name: Literal["linear"] = "linear"

    def after_warmup(self, *, peak_lr: float, start: int, total_steps: int) -> LrOfOrdinals:
        """Returns the line."""
        self.check_min_lr(peak_lr)
        return segment(linear, peak_lr, self.min_lr, start, total_steps)
