"""The prefilter: how many it lets through, and that these are the best."""

from __future__ import annotations

import numpy as np
import pytest

from data.selectors.compression.prefilter import fit_prefilter


def made(documents: int = 3000, targets: int = 30, noise: float = 0.3) -> tuple[np.ndarray, ...]:
    """Similarities that share a common part, their mean, and estimates of it."""
    rng = np.random.default_rng(0)
    similarities = rng.normal(size=(documents, 1)) + rng.normal(size=(documents, targets))
    scores = similarities.mean(axis=1)
    return similarities, scores, scores + noise * rng.normal(size=documents)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_about_the_share_passes_and_holds_the_best(share: float) -> None:
    similarities, scores, estimates = made()
    fit = fit_prefilter(similarities, scores, estimates, share=share)
    assert fit.passes.mean() == pytest.approx(share, rel=0.03)
    best = np.argsort(-scores)[: int(len(scores) * share / 3)]
    assert fit.passes[best].mean() > 0.97
    first_step = estimates >= fit.prefilter.least_estimate
    assert first_step.mean() == pytest.approx(share**0.5, rel=0.01)


def test_the_first_targets_find_what_the_estimates_miss() -> None:
    similarities, scores, estimates = made(noise=0.8)
    passes = fit_prefilter(similarities, scores, estimates, share=0.2).passes
    by_estimate = np.argsort(-estimates)[: int(passes.sum())]
    best = np.argsort(-scores)[: len(scores) // 10]
    assert passes[best].mean() > np.isin(best, by_estimate).mean() + 0.1


def test_it_decides_for_one_document_as_for_the_sample() -> None:
    similarities, scores, estimates = made()
    fit = fit_prefilter(similarities, scores, estimates, share=0.1)
    prefilter = fit.prefilter
    assert len(set(prefilter.first_targets)) == 8
    for row, estimate, prediction, passes in zip(
        similarities[:300], estimates, fit.predictions, fit.passes, strict=False
    ):
        if estimate >= prefilter.least_estimate:
            own = prefilter.predict(row[list(prefilter.first_targets)], float(estimate))
            assert own == pytest.approx(float(prediction), abs=1e-9)
            assert bool(passes) == (prediction >= prefilter.least_prediction)
        else:
            assert (prediction, passes) == (estimate, False)


@pytest.mark.parametrize("documents", [1, 2, 10, 60])
def test_few_documents_are_no_error(documents: int) -> None:
    similarities, scores, estimates = made(documents, targets=2)
    fit = fit_prefilter(similarities, scores, estimates, share=0.3)
    assert fit.passes.any()
    assert np.isfinite(fit.predictions).all()


def test_equal_targets_are_chosen_once() -> None:
    similarities, scores, estimates = made(targets=1)
    fit = fit_prefilter(np.repeat(similarities, 4, axis=1), scores, estimates, share=0.5)
    assert np.isfinite(fit.prefilter.coefficients).all()
    np.testing.assert_allclose(fit.predictions[fit.passes], scores[fit.passes], atol=1e-9)
