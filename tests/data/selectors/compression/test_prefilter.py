"""The prefilter: that it finds the best documents, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest

from data.selectors.compression.agreement import top_recall
from data.selectors.compression.prefilter import (
    NOT_PASSED,
    Prefilter,
    Sample,
    cross_fitted_scores,
    fit_prefilter,
    log_sizes,
    scores_behind,
)


def made(documents: int = 4000, targets: int = 60, noise: float = 0.3, *, seed: int = 0) -> Sample:
    """Similarities that share a common part, and estimates of their mean; both vary more where LZ4 sizes are small."""
    rng = np.random.default_rng(seed)
    sizes = rng.uniform(300, 2000, documents)
    spread = (1000 / sizes)[:, None]
    similarities = rng.normal(size=(documents, 1)) + spread * rng.normal(size=(documents, targets))
    scores = similarities.mean(axis=1)
    estimates = scores + noise * spread[:, 0] * rng.normal(size=documents)
    return Sample(similarities, scores, estimates, log_sizes(np.full(documents, 2000), sizes))


def targets_compared(prefilter: Prefilter, sample: Sample) -> float:
    """The mean number of targets that a document of the sample is compared with."""
    left, compared = np.arange(len(sample)), 0.0
    for number in range(len(prefilter.rounds)):
        before = prefilter.compared(number - 1) if number else 0
        compared += len(left) * (prefilter.compared(number) - before)
        some = sample[left]
        known = some.similarities[:, prefilter.order[: prefilter.compared(number)]]
        left = left[~prefilter.drops(number, some.estimates, some.log_sizes, known)[1]]
    return (compared + len(left) * (sample.similarities.shape[1] - prefilter.compared(number))) / len(sample)


@pytest.mark.parametrize("top_share", [0.02, 0.1])
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_the_best_of_new_documents_pass_with_their_exact_scores(top_share: float, noise: float) -> None:
    new = made(seed=1, noise=noise)
    prefilter = fit_prefilter(made(noise=noise), top_share=top_share)
    found = scores_behind(prefilter, new)
    passes = found > -NOT_PASSED / 2
    assert top_recall(new.scores, found, top_share) >= 0.99
    np.testing.assert_array_equal(found[passes], new.scores[passes])
    assert found[~passes].max() < -NOT_PASSED / 2
    assert top_share < passes.mean() < 2 * top_share
    assert targets_compared(prefilter, new) < 60 * (2 * top_share + 0.12)


def test_better_estimates_save_comparisons() -> None:
    compared = [
        targets_compared(fit_prefilter(made(noise=noise), top_share=0.05), made(noise=noise)) for noise in (0.1, 1)
    ]
    assert compared[0] < compared[1] < 40


def test_documents_whose_error_is_larger_may_miss_the_limit_by_more() -> None:
    """With one error for all, the small documents among the best would be dropped, and large ones kept for nothing."""
    prefilter = fit_prefilter(made(noise=0.05), top_share=0.05)
    sizes = np.array([350.0, 1900.0])
    margins = []
    for size in sizes:
        estimates = np.linspace(-2, 3, 2001)
        same = np.repeat(log_sizes([2000], [size]), len(estimates), axis=0)
        predictions, drops = prefilter.drops(0, estimates, same, np.empty((len(estimates), 0)))
        margins.append(prefilter.limit - predictions[~drops].min())
    assert margins[0] / margins[1] == pytest.approx(sizes[1] / sizes[0], rel=0.2)


def test_the_recall_of_a_sample_is_that_of_documents_to_which_the_prefilter_is_not_fitted() -> None:
    sample = made(noise=0.8)
    found = cross_fitted_scores(sample, top_share=0.05)
    first = np.arange(len(sample)) % 5 == 0
    prefilter = fit_prefilter(sample[~first], top_share=0.05)
    np.testing.assert_array_equal(found[first], scores_behind(prefilter, sample[first]))


def test_arrays_bring_the_same_prefilter() -> None:
    prefilter = fit_prefilter(made(), top_share=0.05)
    assert [prefilter.compared(number) for number in range(len(prefilter.rounds))] == [0, 3, 6, 12, 24, 48]
    again = Prefilter.from_arrays({**prefilter.to_arrays(), "other": np.zeros(3)})
    new = made(seed=1)
    np.testing.assert_array_equal(scores_behind(again, new), scores_behind(prefilter, new))


@pytest.mark.parametrize("documents", [1, 2, 10, 60])
@pytest.mark.parametrize("targets", [1, 2, 30])
def test_few_documents_and_few_targets_are_no_error(documents: int, targets: int) -> None:
    sample = made(documents, targets=targets)
    found = cross_fitted_scores(sample, top_share=0.3)
    assert np.isfinite(found).all()
    assert (scores_behind(fit_prefilter(sample, top_share=0.3), sample) == sample.scores).any()


def test_equal_targets_are_compared_with_once() -> None:
    sample = made(targets=1)
    equal = Sample(np.repeat(sample.similarities, 4, axis=1), sample.scores, sample.estimates, sample.log_sizes)
    prefilter = fit_prefilter(equal, top_share=0.3)
    assert len(prefilter.order) == 1
    found = scores_behind(prefilter, equal)
    assert top_recall(equal.scores, found, 0.3) == 1
