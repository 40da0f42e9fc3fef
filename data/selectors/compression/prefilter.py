"""A prefilter in rounds, which drops documents that will not be among the best, and lets the others through.

A round predicts the exact score from all that is known of a document: at first the estimate of the linear model
(distilled.py), then its similarities to a few targets too, then to more of them, in an order in which they predict the
mean over all targets well. A document is dropped if its prediction plus three standard deviations of the error is under
the limit, which the best `top_share` of the documents reach. So an exact score costs most where it is hard to tell
whether it is among the best, and little elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Float64s: TypeAlias = npt.NDArray[np.float64]
Int64s: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
NOT_PASSED = 10.0  # is subtracted from predictions, which puts them below all exact scores
_COMPARED = (0, 3, 6, 12, 24, 48)  # target chunks that a document has been compared with by the time of each round
_DEVIATIONS = 3.0  # of the error, by which a prediction must miss the limit
_LIMIT_DEVIATIONS = 2.33  # the limit is so low that it is too high for one sample in a hundred
_LEAST_DOCUMENTS = 100  # to which a round is fitted, besides those compared; fewer only if the sample has fewer
_DOCUMENTS_PER_COEFFICIENT = 4  # fewer cannot say how large the error is
_LEAST_VARIANCE = 1e-10  # of an error, so that it has a logarithm
_FOLDS = 5


@dataclass(frozen=True)
class Round:
    """A round's prediction of scores, and the error that it expects."""

    coefficients: Float64s  # [2 + compared]: of the estimate, 1, and the similarities to the first target chunks
    log_variance: Float64s  # [3] of the error: a linear function of 1 and the log sizes

    def predict(self, estimates: Float64s, log_sizes: Float64s, similarities: Float64s) -> tuple[Float64s, Float64s]:
        """Return what the round predicts for documents, and their highest likely scores, each [documents].

        `log_sizes` [documents, 2] must be in the range of the fit; `similarities` are [documents, compared].
        """
        ones = np.ones(len(estimates))
        predictions = (np.column_stack((estimates, ones, similarities)) * self.coefficients).sum(axis=1)
        log_variances = (np.column_stack((ones, log_sizes)) * self.log_variance).sum(axis=1)
        return predictions, predictions + _DEVIATIONS * np.exp(log_variances / 2)


@dataclass(frozen=True)
class Prefilter:
    """The rounds. A document passes one if its highest likely score is at least the limit."""

    rounds: tuple[Round, ...]
    order: Int64s  # the numbers of target chunks, in the order in which documents are compared with them
    log_size_range: Float64s  # [2, 2]: the least and the greatest log sizes of the sample
    limit: float

    def drops(
        self, number: int, estimates: Float64s, log_sizes: Float64s, similarities: Float64s
    ) -> tuple[Float64s, Bools]:
        """Return what a round predicts for documents, and which of them it drops, each [documents]."""
        log_sizes = np.clip(log_sizes, *self.log_size_range)
        predictions, highest = self.rounds[number].predict(estimates, log_sizes, similarities)
        return predictions, highest < self.limit

    def compared(self, number: int) -> int:
        """Return how many target chunks a document has been compared with by the time of a round."""
        return len(self.rounds[number].coefficients) - 2

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the prefilter as arrays by name, from which `from_arrays` makes it again."""
        rounds = {
            f"round_{number}_{name}": array
            for number, each in enumerate(self.rounds)
            for name, array in vars(each).items()
        }
        return rounds | {"order": self.order, "log_size_range": self.log_size_range, "limit": np.array(self.limit)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Prefilter:
        """Return the prefilter that `to_arrays` has written; other arrays may be among them."""
        rounds: list[Round] = []
        while (prefix := f"round_{len(rounds)}") + "_coefficients" in arrays:
            rounds.append(Round(arrays[f"{prefix}_coefficients"], arrays[f"{prefix}_log_variance"]))
        return cls(tuple(rounds), arrays["order"], arrays["log_size_range"], float(arrays["limit"]))


def log_sizes(num_bytes: npt.ArrayLike, lz4_bytes: npt.ArrayLike) -> Float64s:
    """Return the logarithms of the bytes of documents and of their sizes by LZ4, [documents, 2].

    The error of a prediction depends on both: texts that compress well differ more from each other.
    """
    return np.log1p(np.column_stack((num_bytes, lz4_bytes)).astype(np.float64))


@dataclass(frozen=True)
class Sample:
    """Documents whose exact scores are known, to which a prefilter is fitted.

    The estimates must be those of models that did not see the document, as those of all later ones will be.
    """

    similarities: Float64s  # [documents, target chunks]
    scores: Float64s  # [documents], exact
    estimates: Float64s  # [documents]
    log_sizes: Float64s  # [documents, 2]

    def __getitem__(self, documents: npt.NDArray[Any]) -> Sample:
        return Sample(*(array[documents] for array in vars(self).values()))

    def __len__(self) -> int:
        return len(self.scores)


def fit_prefilter(sample: Sample, *, top_share: float) -> Prefilter:
    """Fit the rounds so that they let the best `top_share` of the documents through, but for about one in a hundred."""
    # How many of a sample are among the best of all documents is known to the deviation of a binomial.
    share = min(1.0, top_share + _LIMIT_DEVIATIONS * math.sqrt(top_share / len(sample)))
    limit = float(np.quantile(sample.scores, 1 - share))
    size_range = np.stack((sample.log_sizes.min(axis=0), sample.log_sizes.max(axis=0)))
    order, rounds = np.empty(0, dtype=np.int64), list[Round]()
    for compared in _COMPARED:
        if compared and not len(order):
            order = _choose_targets(sample)
        if compared > len(order) or (compared and len(sample) < _DOCUMENTS_PER_COEFFICIENT * (compared + 2)):
            break
        known = sample.similarities[:, order[:compared]]
        rounds.append(_fit_round(sample, known))
        _, highest = rounds[-1].predict(sample.estimates, sample.log_sizes, known)
        passes = highest >= limit
        if passes.sum() >= _LEAST_DOCUMENTS + compared:
            sample = sample[passes]
    return Prefilter(tuple(rounds), order, size_range, limit)


def scores_behind(prefilter: Prefilter, sample: Sample) -> Float64s:
    """Return what documents of a sample get: exact scores, or 10 less than predicted by the round that drops them."""
    final, left = np.array(sample.scores), np.arange(len(sample))
    for number in range(len(prefilter.rounds)):
        some = sample[left]
        known = some.similarities[:, prefilter.order[: prefilter.compared(number)]]
        predictions, drops = prefilter.drops(number, some.estimates, some.log_sizes, known)
        final[left[drops]] = predictions[drops] - NOT_PASSED
        left = left[~drops]
    return final


def cross_fitted_scores(sample: Sample, *, top_share: float) -> Float64s:
    """Return what each document of a sample gets behind a prefilter that is fitted to the documents of other folds."""
    folds = np.arange(len(sample)) % _FOLDS
    if len(sample) <= _FOLDS:
        return scores_behind(fit_prefilter(sample, top_share=top_share), sample)
    final = np.empty(len(sample))
    for fold in range(_FOLDS):
        prefilter = fit_prefilter(sample[folds != fold], top_share=top_share)
        final[folds == fold] = scores_behind(prefilter, sample[folds == fold])
    return final


def _fit_round(sample: Sample, known: Float64s) -> Round:
    """Fit predictions by least squares, and then the logarithm of the squared errors."""
    regressors = np.column_stack((sample.estimates, np.ones(len(sample)), known))
    coefficients = np.linalg.lstsq(regressors, sample.scores, rcond=None)[0].astype(np.float64)
    errors = (sample.scores - regressors @ coefficients) ** 2 * len(sample)
    errors = errors / max(len(sample) - len(coefficients), 1) + _LEAST_VARIANCE
    factors = np.column_stack((np.ones(len(sample)), sample.log_sizes))
    log_variance = np.linalg.lstsq(factors, np.log(errors), rcond=None)[0].astype(np.float64)
    # The mean of a logarithm is less than the logarithm of the mean.
    log_variance[0] += math.log(errors.mean() / np.exp(factors @ log_variance).mean())
    return Round(coefficients, log_variance)


def _choose_targets(sample: Sample) -> Int64s:
    """Choose target chunks one by one, each the one that explains most of what is left of the scores."""
    columns = sample.similarities.shape[1]
    chosen: list[int] = []
    while len(chosen) < min(columns - 1, _COMPARED[-1]):
        known = np.column_stack((sample.similarities[:, chosen], sample.estimates, np.ones(len(sample))))
        basis = np.linalg.qr(known)[0]
        unexplained = sample.scores - basis @ (basis.T @ sample.scores)
        candidates = sample.similarities - basis @ (basis.T @ sample.similarities)
        power = (candidates**2).sum(axis=0)
        gain = np.where(
            power > _LEAST_VARIANCE, (candidates.T @ unexplained) ** 2 / np.maximum(power, _LEAST_VARIANCE), 0
        )
        gain[chosen] = 0
        if not gain.any():
            break
        chosen.append(int(gain.argmax()))
    return np.array(chosen, dtype=np.int64)
