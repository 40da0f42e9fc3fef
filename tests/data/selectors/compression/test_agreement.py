"""Measures of agreement, by hand."""

from __future__ import annotations

import math

import numpy as np

from data.selectors.compression.agreement import TOP_SHARES, rank_correlation, top_recall, top_recalls


def test_recall_counts_the_best_that_are_found() -> None:
    exact = np.arange(100.0)
    cheap = exact.copy()
    cheap[[99, 0]] = cheap[[0, 99]]  # the best is taken for the worst
    assert top_recall(exact, cheap, 0.04) == 0.75
    assert top_recall(exact, cheap, 0.5) == 0.98
    assert top_recall(exact, exact, 0.1) == 1
    assert math.isnan(top_recall(exact, cheap, 0.004))
    assert top_recalls(exact, cheap).shape == (len(TOP_SHARES),)


def test_rank_correlation_of_what_does_not_vary_is_nan() -> None:
    varying = np.array([1.0, 2.0, 5.0])
    assert rank_correlation(varying, varying**3) == 1
    assert rank_correlation(varying, -varying) == -1
    assert math.isnan(rank_correlation(varying, np.ones(3)))
    assert math.isnan(rank_correlation(varying[:1], varying[:1]))
