"""The settings of a schedule that a search for the best one tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SearchLimits:
    """The limits that every schedule of a search keeps."""

    total_steps: int
    peak_lr: float
    warmup_steps: int
    min_lr: float  # the lowest lr allowed
    max_decay_share: float  # the longest final decay, as a share of the run

    @property
    def start(self) -> int:
        """The ordinal of the first step at the peak."""
        return max(self.warmup_steps, 1)


@dataclass(frozen=True)
class Trial:
    """The settings of one schedule to try, or of a line of them that differ in one whole number.

    If `varied` names one of the settings, the search tries every value of `grid` for it, ascending, and then the
    values between the neighbours of the best.
    """

    settings: Mapping[str, Any]
    varied: str | None = None
    grid: tuple[int, ...] = ()
