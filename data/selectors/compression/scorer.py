"""ZIP-FIT at work: scores texts exactly, behind a prefilter, or by an estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data.selectors.base import Scorer
from data.selectors.compression.agreement import TOP_SHARES
from data.selectors.compression.compressors import Compressor
from data.selectors.compression.distilled import Estimate, Estimator, LinearModel
from data.selectors.compression.ncd import Comparison, make_target_chunks, mean_similarity, similarities
from data.selectors.compression.prefilter import NOT_PASSED, Prefilter, log_sizes

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
        if "order" in fitted:
            self._prefilter = Prefilter.from_arrays(fitted)
            order = self._prefilter.order.tolist()
            others = [number for number in range(len(self._targets.contents)) if number not in order]
            self._order = np.array(order + others, dtype=np.int64)

    def score(self, texts: Sequence[str], hashes: UInt64s) -> Float64s:
        """Return the scores; NaN for a text of less than min_bytes.

        A document that the prefilter drops has its predicted score less 10, which is below all exact scores.
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
        return self._score_behind(self._prefilter, content, estimate) if self._prefilter else estimate.score

    def _score_behind(self, prefilter: Prefilter, content: bytes, estimate: Estimate) -> float:
        estimates, sizes = np.array([estimate.score]), log_sizes([len(content)], [estimate.lz4_bytes])
        comparison = Comparison(self._compressor, content, self._targets)
        in_order, done = np.empty(len(self._order)), 0
        for number in range(len(prefilter.rounds)):
            if (compared := prefilter.compared(number)) > done:
                in_order[done:compared] = comparison.similarities(self._order[done:compared])
                done = compared
            (prediction,), (drops,) = prefilter.drops(number, estimates, sizes, in_order[None, :done])
            if drops:
                return float(prediction) - NOT_PASSED
        in_order[done:] = comparison.similarities(self._order[done:])
        row = np.empty(len(self._order))
        row[self._order] = in_order
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
