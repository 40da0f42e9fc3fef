"""How well cheap scores agree with exact ones, measured on a sample."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Float64s: TypeAlias = npt.NDArray[np.float64]
TOP_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def top_recall(exact: Float64s, cheap: Float64s, share: float) -> float:
    """Return which part of the top share by the exact scores is also in the top share by the cheap ones.

    NaN means that the share is less than one document.
    """
    count = round(share * len(exact))
    if not count:
        return float("nan")
    best, found = (np.argsort(-scores, kind="stable")[:count] for scores in (exact, cheap))
    return len(np.intersect1d(best, found)) / count


def top_recalls(exact: Float64s, cheap: Float64s) -> Float64s:
    """Return the recall of each of TOP_SHARES."""
    return np.array([top_recall(exact, cheap, share) for share in TOP_SHARES])


def rank_correlation(first: Float64s, second: Float64s) -> float:
    """Return Spearman's rank correlation; NaN if one of the two does not vary."""
    from scipy.stats import spearmanr

    if len(first) < 2 or not np.ptp(first) or not np.ptp(second):
        return float("nan")
    return float(spearmanr(first, second).statistic)
