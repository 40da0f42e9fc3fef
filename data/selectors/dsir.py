"""DSIR: importance weights of hashed n-grams (Xie et al. 2023, arXiv:2302.03169, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from data.selectors.base import SELECTORS, Scorer, SelectorConfig

if TYPE_CHECKING:
    from data.selectors.base import Arrays, Float64s, UInt64s


@SELECTORS.register
class DsirConfig(SelectorConfig):
    """Scores a document by log p(document | targets) - log p(document | pool), each a bag of hashed n-grams.

    With data.select.temperature = 1 documents are drawn as in the paper: without replacement, in proportion to their
    importance weights. The score is a sum over n-grams, so it grows with the length of a document.
    """

    name: Literal["dsir"] = "dsir"
    buckets: int = Field(10_000, ge=2, le=2**24, description="Buckets into which n-grams are hashed.")
    ngram_words: int = Field(2, ge=1, le=5, description="Words of the longest n-gram.")
    smoothing: float = Field(1.0, gt=0, description="Count that every bucket has besides its n-grams.")
    sample_bytes: int = Field(20_000_000, ge=1, description="Bytes of text of the sample that stands for the pool.")

    @property
    def uses_targets(self) -> bool:
        return True

    @property
    def pool_sample_bytes(self) -> int:
        return self.sample_bytes

    def fit(self, targets: Sequence[str], pool: Sequence[str]) -> Arrays:
        """Return `log_ratio` [buckets], what an n-gram of the bucket adds to a score."""
        return {"log_ratio": self._log_probabilities(targets) - self._log_probabilities(pool)}

    def prepare(self, targets: Sequence[str], fitted: Arrays) -> Scorer:
        return _DsirScorer(self, fitted["log_ratio"])

    def _log_probabilities(self, texts: Sequence[str]) -> Float64s:
        import numpy as np

        from data.selectors.blocks.hashed_ngrams import HashedNgrams

        ngrams = HashedNgrams(buckets=self.buckets, longest=self.ngram_words)
        counts = np.full(self.buckets, self.smoothing)
        for text in texts:
            counts += np.bincount(ngrams(text), minlength=self.buckets)
        log_probabilities: Float64s = np.log(counts / counts.sum())
        return log_probabilities


class _DsirScorer(Scorer):
    def __init__(self, config: DsirConfig, log_ratio: Float64s) -> None:
        from data.selectors.blocks.hashed_ngrams import HashedNgrams

        self._ngrams = HashedNgrams(buckets=config.buckets, longest=config.ngram_words)
        self._log_ratio = log_ratio

    def score(self, texts: Sequence[str], hashes: UInt64s) -> Float64s:
        import numpy as np

        return np.array([self._log_ratio[self._ngrams(text)].sum() for text in texts], dtype=np.float64)
