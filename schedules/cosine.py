"""Cosine decay (arXiv 1608.03983, one cycle)."""

from __future__ import annotations

from typing import Literal

from schedules.base import SCHEDULES, DecayingConfig, LrOfOrdinals
from schedules.shapes import cosine, segment


@SCHEDULES.register
class CosineConfig(DecayingConfig):
    """Half a cosine from the peak to min_lr."""

    name: Literal["cosine"] = "cosine"

    def after_warmup(self, *, peak_lr: float, start: int, total_steps: int) -> LrOfOrdinals:
        """Returns the half cosine."""
        self.check_min_lr(peak_lr)
        return segment(cosine, peak_lr, self.min_lr, start, total_steps)
