"""The constant schedule."""

from __future__ import annotations

from typing import Literal

import numpy as np

from schedules.base import SCHEDULES, LrOfOrdinals, WarmedConfig


@SCHEDULES.register
class ConstantConfig(WarmedConfig):
    """The peak, after warm-up."""

    name: Literal["constant"] = "constant"

    def after_warmup(self, *, peak_lr: float, start: int, total_steps: int) -> LrOfOrdinals:
        """Returns the peak at every step."""
        return lambda ordinal_n: np.full(ordinal_n.shape, peak_lr, dtype=np.float64)
