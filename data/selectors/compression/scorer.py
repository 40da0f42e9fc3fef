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
from data.selectors.compression.summaries import Correction, Summaries

if TYPE_CHECKING:
    from data.selectors.base import Arrays, Float64s, UInt64s


class ZipFitScorer(Scorer):
    """Scores texts with what fit_to_sample returned: without a model exactly, without a prefilter by estimates."""

    def __init__(self, compressor: Compressor, targets: Sequence[bytes], fitted: Arrays, *, min_bytes: int) -> None:
        self._compressor, self._min_bytes = compressor, min_bytes
        self._targets = make_target_chunks(compressor, targets)
        self._facts = {"targets": len(targets), **_agreement(fitted)}
        self._estimator = self._prefilter = self._correction = None
        if "ngram_weights" in fitted:
            model = LinearModel(fitted["ngram_weights"], fitted["byte_weights"])
            self._estimator = Estimator(self._targets, model)
        if "correction" in fitted:
            self._correction = Correction.from_arrays(fitted)
            self._summaries = Summaries(compressor, self._targets, self._correction.clusters)
        if "order" in fitted:
            self._prefilter = Prefilter.from_arrays(fitted)
            order = self._prefilter.order.tolist()
            others = [number for number in range(len(self._targets.contents)) if number not in order]
            self._order = np.array(order + others, dtype=np.int64)

    def score(self, texts: Sequence[str], hashes: UInt64s) -> Float64s:
        """Return the scores; NaN for a text of less than min_bytes.

        A document that the prefilter drops has its predicted score less 10, which is below all exact scores.
        """
        contents = [text.encode() for text in texts]
        numbers = [number for number, content in enumerate(contents) if len(content) >= self._min_bytes]
        scores = np.full(len(contents), np.nan)
        if numbers:
            scores[numbers] = self._scores([contents[number] for number in numbers])
        return scores

    def describe(self) -> Mapping[str, Any]:
        return self._facts

    def _scores(self, contents: Sequence[bytes]) -> Float64s:
        """Return the scores of texts that are long enough, [texts]."""
        if not self._estimator:
            rows = (similarities(self._compressor, content, self._targets) for content in contents)
            return np.array([mean_similarity(row, self._targets) for row in rows])
        # All texts are estimated before one is compressed: so the tables of either stay in the processor's cache.
        estimates = [self._estimator.estimate(content) for content in contents]
        if prefilter := self._prefilter:
            each = zip(contents, estimates, strict=True)
            return np.array([self._score_behind(prefilter, content, estimate) for content, estimate in each])
        assert self._correction, "estimates are for a prefilter or for a correction"
        features = np.stack([self._summaries.features(content) for content in contents])
        return self._correction.correct(np.array([estimate.score for estimate in estimates]), features)

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
