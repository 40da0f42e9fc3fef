"""The statistics of selection_report.py: paired seeds, with the variance pooled over arms."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Arm = TypeVar("Arm", bound=Hashable)
NOT_TOLD_APART = 2.0  # standard errors


@dataclass(frozen=True)
class Difference:
    """The mean difference of two arms, with its standard error."""

    mean: float
    standard_error: float

    @property
    def is_told_apart(self) -> bool:
        """True if the difference is at least two standard errors."""
        return abs(self.mean) >= NOT_TOLD_APART * self.standard_error

    @property
    def verdict(self) -> str:
        """The difference in a word; a lower loss is better."""
        return ("better" if self.mean < 0 else "worse") if self.is_told_apart else "not told apart"

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.standard_error:.4f}"


class PairedArms(Generic[Arm]):
    """The losses of arms whose seeds are paired: loss = arm + seed + noise, where the noise of all arms is alike."""

    def __init__(self, losses: Mapping[Arm, Mapping[int, float]]) -> None:
        """`losses`: of each arm by seed. All arms have the same seeds, two at least."""
        self._arms = {arm: index for index, arm in enumerate(losses)}
        seeds = sorted(next(iter(losses.values()), {}))
        assert len(seeds) > 1
        assert all(sorted(own) == seeds for own in losses.values())
        self._losses = np.array([[own[seed] for seed in seeds] for own in losses.values()])
        means = self._losses.mean(axis=1, keepdims=True) + self._losses.mean(axis=0) - self._losses.mean()
        freedom = (len(losses) - 1) * (len(seeds) - 1)
        self.noise = math.sqrt(float(((self._losses - means) ** 2).sum()) / freedom) if freedom else math.nan

    def __contains__(self, arm: Arm) -> bool:
        return arm in self._arms

    def mean(self, arm: Arm) -> float:
        """Returns the mean loss of an arm."""
        return float(self._losses[self._arms[arm]].mean())

    def difference(self, arm: Arm, other: Arm) -> Difference:
        """Returns the mean loss of an arm minus that of another one."""
        error = self.noise * math.sqrt(2 / self._losses.shape[1])
        return Difference(self.mean(arm) - self.mean(other), error)
