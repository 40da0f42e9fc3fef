"""ZIP-FIT at work: scores texts exactly, behind a prefilter, or by an estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data.selectors.base import Scorer
from data.selectors.compression.agreement import TOP_SHARES
from data.selectors.compression.compressors import Compressor
from data.selectors.compression.distilled import Estimator, LinearModel
from data.selectors.compression.ncd import make_target_chunks, mean_similarity, similarities
from data.selectors.compression.prefilter import NOT_PASSED, Prefilter

if TYPE_CHECKING:
    from data.selectors.base import Arrays, Float64s, UInt64s


class ZipFitScorer(Scorer):
    """Scores texts with what fit_to_sample returned: without a model exactly, without a prefilter by estimates."""

    def __init__(self, compressor: Compressor, targets: Sequence[bytes], fitted: Arrays, *, min_bytes: int) -> None:
        self._compressor, self._min_bytes = compressor, min_bytes
        self._targets = make_target_chunks(compressor, targets)
        self._facts = {"targets": len(targets), **_agreement(fitted)}
        self._estimator = self._prefilter = None
        if "ngram_weights" in fitted:
            model = LinearModel(fitted["ngram_weights"], fitted["byte_weights"])
            self._estimator = Estimator(self._targets, model)
        if "first_targets" in fitted:
            self._prefilter = Prefilter(
                first_targets=tuple(fitted["first_targets"].tolist()),
                coefficients=fitted["coefficients"],
                least_estimate=float(fitted["least_estimate"]),
                least_prediction=float(fitted["least_prediction"]),
            )
            self._first = list(self._prefilter.first_targets)
            self._rest = [number for number in range(len(self._targets.contents)) if number not in self._first]
            self._first_chunks, self._rest_chunks = map(self._targets.subset, (self._first, self._rest))

    def score(self, texts: Sequence[str], hashes: UInt64s) -> Float64s:
        """Return the scores; NaN for a text of less than min_bytes.

        A document that the prefilter does not let through has its estimate less 10, which is below all exact scores.
        """
        return np.array([self._score(text.encode()) for text in texts], dtype=np.float64)

    def describe(self) -> Mapping[str, Any]:
        return self._facts

    def _score(self, content: bytes) -> float:
        if len(content) < self._min_bytes:
            return math.nan
        if not self._estimator:
            return mean_similarity(similarities(self._compressor, content, self._targets), self._targets)
        estimate = self._estimator.estimate(content)
        return self._score_behind(self._prefilter, content, estimate) if self._prefilter else estimate

    def _score_behind(self, prefilter: Prefilter, content: bytes, estimate: float) -> float:
        if estimate < prefilter.least_estimate:
            return estimate - NOT_PASSED
        first = similarities(self._compressor, content, self._first_chunks)
        prediction = prefilter.predict(first, estimate)
        if prediction < prefilter.least_prediction:
            return prediction - NOT_PASSED
        row = np.empty(len(self._targets.contents))
        row[self._first] = first
        row[self._rest] = similarities(self._compressor, content, self._rest_chunks)
        return mean_similarity(row, self._targets)


def _agreement(fitted: Arrays) -> dict[str, Any]:
    """Return what was measured on the sample of the pool, for the report."""
    if "sample_documents" not in fitted:
        return {}
    recalls = zip(TOP_SHARES, fitted["top_recalls"].tolist(), strict=True)
    correlations = {"estimate": fitted["estimate_correlation"], "bytes": fitted["length_correlation"]}
    return {
        "sample_documents": int(fitted["sample_documents"]),
        "recall_of_exact_top": {f"{share:.0%}": recall for share, recall in recalls if not math.isnan(recall)},
        "spearman_of_exact_score": {key: float(value) for key, value in correlations.items() if not math.isnan(value)},
    }
