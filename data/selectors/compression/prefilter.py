"""A prefilter in two steps, which lets about a given share of the documents through to be scored exactly.

The first step is the estimate of the linear model (distilled.py). The second compares what passes with a few targets
that were chosen because, with the estimate, they predict the mean over all targets best. Each step lets through the
same factor, so the first the square root of the share. What passes both is compared with the other targets too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Float64s: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
NOT_PASSED = 10.0  # is subtracted from estimates, which puts them below all exact scores
_MAX_FIRST_TARGETS = 8
_DOCUMENTS_PER_COEFFICIENT = 20


@dataclass(frozen=True)
class Prefilter:
    """Which targets are compared first, and the limits that a document must reach to be compared further."""

    first_targets: tuple[int, ...]  # numbers of target chunks
    coefficients: Float64s  # [first targets + 2] of the prediction: their similarities, the estimate, 1
    least_estimate: float
    least_prediction: float

    def predict(self, first_similarities: Float64s, estimate: float) -> float:
        """Predict the exact score from the similarities to the first targets and the estimate."""
        return float((self.coefficients * np.append(first_similarities, (estimate, 1.0))).sum())


@dataclass(frozen=True)
class PrefilterFit:
    """A prefilter, and what it does with the sample to which it was fitted."""

    prefilter: Prefilter
    predictions: Float64s  # [documents], the better of the two for each: a document that fails the first step has one
    passes: Bools  # [documents]


def fit_prefilter(similarities: Float64s, scores: Float64s, estimates: Float64s, *, share: float) -> PrefilterFit:
    """Fit the prefilter to similarities [documents, target chunks], exact scores and estimates [documents].

    The estimates must be those of models that did not see the document, as those of all later ones will be.
    """
    least_estimate = float(np.quantile(estimates, 1 - np.sqrt(share)))
    passes = estimates >= least_estimate
    first = _choose_targets(similarities[passes], scores[passes], estimates[passes])
    regressors = np.column_stack((similarities[:, first], estimates, np.ones(len(scores))))
    coefficients: Float64s = np.linalg.lstsq(regressors[passes], scores[passes], rcond=None)[0].astype(np.float64)
    predictions = np.where(passes, regressors @ coefficients, estimates)
    share_of_passing = min(1.0, share * len(scores) / passes.sum())
    least_prediction = float(np.quantile(predictions[passes], 1 - share_of_passing))
    prefilter = Prefilter(tuple(first), coefficients, least_estimate, least_prediction)
    return PrefilterFit(prefilter, predictions, passes & (predictions >= least_prediction))


def _choose_targets(similarities: Float64s, scores: Float64s, estimates: Float64s) -> list[int]:
    """Choose targets one by one, each the one that explains most of what is left of the scores."""
    documents, columns = similarities.shape
    chosen: list[int] = []
    while len(chosen) < min(_MAX_FIRST_TARGETS, columns, documents // _DOCUMENTS_PER_COEFFICIENT):
        known = np.column_stack((similarities[:, chosen], estimates, np.ones(documents)))
        basis = np.linalg.qr(known)[0]
        unexplained = scores - basis @ (basis.T @ scores)
        candidates = similarities - basis @ (basis.T @ similarities)
        power = (candidates**2).sum(axis=0)
        gain = np.where(power > 1e-12, (candidates.T @ unexplained) ** 2 / np.maximum(power, 1e-12), -1.0)
        gain[chosen] = -1.0
        chosen.append(int(gain.argmax()))
    return chosen
