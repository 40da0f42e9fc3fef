"""Estimates of exact scores by the linear model."""

from __future__ import annotations

import numpy as np
import pytest
from scored_texts import TARGETS, exact_scores, texts

from data.selectors.compression.agreement import rank_correlation
from data.selectors.compression.compressors import Lz4
from data.selectors.compression.distilled import Estimator, fit_linear_model
from data.selectors.compression.ncd import CHUNK_BYTES, cut

FITTED, NEW = slice(0, 250), slice(250, -12)


def test_estimates_of_new_texts_rank_as_exact_scores() -> None:
    fitted = fit_linear_model(TARGETS, texts()[FITTED], exact_scores()[FITTED])
    estimator = Estimator(TARGETS, fitted.model)
    estimates = np.array([estimator.estimate(text).score for text in texts()[NEW]])
    correlation = rank_correlation(estimates, exact_scores()[250:])
    assert correlation > 0.9
    assert rank_correlation(fitted.left_out_estimates, exact_scores()[FITTED]) == pytest.approx(correlation, abs=0.06)


def test_sizes_by_lz4_are_those_of_the_chunks() -> None:
    fitted = fit_linear_model(TARGETS, texts()[:30], exact_scores()[:30])
    for text, lz4_bytes in zip(texts()[:30], fitted.lz4_bytes, strict=True):
        assert lz4_bytes == sum(Lz4().size(chunk) for chunk in cut(text))
        assert Estimator(TARGETS, fitted.model).estimate(text).lz4_bytes == lz4_bytes


def test_an_estimate_within_the_sample_lies_between_the_score_and_the_left_out_estimate() -> None:
    """That is so of every ridge regression; it holds only if the weights of n-grams and bytes are what was fitted."""
    scores = exact_scores()[FITTED]
    fitted = fit_linear_model(TARGETS, texts()[FITTED], scores)
    estimator = Estimator(TARGETS, fitted.model)
    estimates = np.array([estimator.estimate(text).score for text in texts()[FITTED]])
    assert len(texts()[0]) > 2 * CHUNK_BYTES
    lower, upper = np.minimum(scores, fitted.left_out_estimates), np.maximum(scores, fitted.left_out_estimates)
    assert (estimates >= lower - 1e-6).all()
    assert (estimates <= upper + 1e-6).all()


@pytest.mark.parametrize("content", [b"", b"a", b"ab", b"\x00" * 50_000, bytes(range(256)) * 100])
def test_odd_texts_have_finite_estimates(content: bytes) -> None:
    fitted = fit_linear_model(TARGETS, texts()[:30], exact_scores()[:30])
    assert -1 <= Estimator(TARGETS, fitted.model).estimate(content).score <= 1
