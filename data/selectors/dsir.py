"""DSIR: importance weights of hashed n-grams (Xie et al. 2023, arXiv:2302.03169, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from data.selectors.base import SELECTORS, Scorer
from data.selectors.target_ngrams import TargetNgramsConfig

if TYPE_CHECKING:
    from data.selectors.base import Arrays, Float64s, UInt64s
    from data.selectors.blocks.hashed_ngrams import HashedNgrams


@SELECTORS.register
class DsirConfig(TargetNgramsConfig):
    """Scores a document by log p(document | targets) - log p(document | pool), each a bag of hashed n-grams.

    With data.select.temperature = 1 documents are drawn as in the paper: without replacement, in proportion to their
    importance weights. The score is a sum over n-grams, so it grows with the length of a document.
    """

    name: Literal["dsir"] = "dsir"
    smoothing: float = Field(1.0, gt=0, description="Count that every bucket has besides its n-grams.")

    def fit(self, targets: Sequence[str], pool: Sequence[str]) -> Arrays:
        """Return `log_ratio` [buckets], what an n-gram of the bucket adds to a score."""
        return {"log_ratio": self._log_probabilities(targets) - self._log_probabilities(pool)}

    def prepare(self, targets: Sequence[str], fitted: Arrays) -> Scorer:
        return _DsirScorer(self.hashed_ngrams(), fitted["log_ratio"])

    def _log_probabilities(self, texts: Sequence[str]) -> Float64s:
        import numpy as np

        ngrams = self.hashed_ngrams()
        counts = np.full(self.buckets, self.smoothing)
        for text in texts:
            counts += np.bincount(ngrams(text), minlength=self.buckets)
        log_probabilities: Float64s = np.log(counts / counts.sum())
        return log_probabilities


class _DsirScorer(Scorer):
    def __init__(self, ngrams: HashedNgrams, log_ratio: Float64s) -> None:
        self._ngrams, self._log_ratio = ngrams, log_ratio

    def score(self, texts: Sequence[str], hashes: UInt64s) -> Float64s:
        import numpy as np

        return np.array([self._log_ratio[self._ngrams(text)].sum() for text in texts], dtype=np.float64)
