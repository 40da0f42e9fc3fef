"""The correlation of neighbouring residuals of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from laws.curve import Floats

_LARGEST_RATIO = 0.9


@dataclass(frozen=True)
class Correlation:
    """The correlation of neighbouring residuals at each lag from 1, as far as it is known."""

    at_lag: Floats

    @property
    def steps(self) -> float:
        """The number of losses over which residuals are correlated: the integrated autocorrelation, at least 1."""
        return 1 + 2 * float(self.at_lag.sum())

    def share_within(self, block: int) -> float:
        """Returns the share of the variance of a mean that weights count if they are equal in blocks of this length.

        They count the correlation at lag k by 1 - k / block (Lahiri 2003, Resampling Methods for Dependent Data).
        """
        counted = np.maximum(1 - np.arange(1, self.at_lag.size + 1) / block, 0)
        return (1 + 2 * float(counted @ self.at_lag)) / self.steps


def correlation(curves: Sequence[Floats]) -> Correlation:
    """Returns the correlation of the residuals of some curves, one estimate for all.

    Lags count as far as they exceed chance; beyond them the correlation falls by the first one's ratio at each lag.
    """
    count, squares = sum(curve.size for curve in curves), sum(float(curve @ curve) for curve in curves)
    most_lag = max(curve.size for curve in curves) // 4
    if count < 8 or squares == 0 or most_lag < 1:
        return Correlation(np.empty(0))
    sums = np.array([[_products(curve, lag) for curve in curves] for lag in range(1, most_lag + 1)])  # [lag, curve, 2]
    products, pairs = sums.sum(axis=1).T
    at_lag = products / pairs * count / squares
    below = np.nonzero(at_lag < 2 / np.sqrt(count))[0]
    known = at_lag[: below[0]] if below.size else at_lag
    if known.size == 0:
        return Correlation(np.empty(0))
    tail = known[-1] * min(known[0], _LARGEST_RATIO) ** np.arange(1, 2 * most_lag)
    return Correlation(np.concatenate([known, tail]))


def _products(curve: Floats, lag: int) -> tuple[float, int]:
    """Returns the sum of the products of residuals that are `lag` apart, and their number."""
    if curve.size <= lag:
        return 0.0, 0
    return float(curve[lag:] @ curve[:-lag]), curve.size - lag
