"""A linear classifier of target against pool, as the filter of DCLM is (Li et al. 2024, arXiv:2406.11794, section 4.4).

DCLM trains fastText on word n-grams. This is the same model without its hidden layer, and its optimum is unique.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from data.selectors.base import SELECTORS, Scorer
from data.selectors.target_ngrams import TargetNgramsConfig, buckets_field

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from data.selectors.base import Arrays, Float64s, UInt64s
    from data.selectors.blocks.hashed_ngrams import HashedNgrams


@SELECTORS.register
class ClassifierConfig(TargetNgramsConfig):
    """Scores a document by the log-odds that it is a target, of a logistic regression over hashed word n-grams.

    It is trained on the targets against a sample of the pool, both of the same weight.
    """

    name: Literal["classifier"] = "classifier"
    buckets: int = buckets_field(2**18)
    penalty: float = Field(
        1e-4, gt=0, description="Weight of half the squared norm of the weights, beside the mean loss of a document."
    )
    steps: int = Field(200, ge=1, description="Most iterations of L-BFGS.")

    def fit(self, targets: Sequence[str], pool: Sequence[str]) -> Arrays:
        """Return `weights` [buckets + 1], the last of which is the bias."""
        import numpy as np
        from scipy.optimize import minimize

        features = self._features([*targets, *pool])
        signs = np.concatenate((np.ones(len(targets)), -np.ones(len(pool))))
        shares = np.where(signs > 0, 0.5 / max(len(targets), 1), 0.5 / max(len(pool), 1))

        def loss(weights: Float64s) -> tuple[float, Float64s]:
            margins = signs * (features @ weights[:-1] + weights[-1])
            slopes = -shares * signs / (1 + np.exp(np.clip(margins, -500, 500)))
            gradient = np.append(features.T @ slopes + self.penalty * weights[:-1], slopes.sum())
            return float(shares @ np.logaddexp(0, -margins) + self.penalty / 2 * weights[:-1] @ weights[:-1]), gradient

        options: Any = {"maxiter": self.steps}
        found = minimize(loss, np.zeros(self.buckets + 1), jac=True, method="L-BFGS-B", options=options)
        return {"weights": found.x}

    def prepare(self, targets: Sequence[str], fitted: Arrays) -> Scorer:
        return _ClassifierScorer(self.hashed_ngrams(), fitted["weights"])

    def _features(self, texts: Sequence[str]) -> csr_array:
        """Return the counts of n-grams of each text, scaled to norm 1, [texts, buckets]."""
        import numpy as np
        from scipy.sparse import csr_array

        ngrams = self.hashed_ngrams()
        rows = [np.unique(ngrams(text), return_counts=True) for text in texts]
        ends = np.cumsum([0, *(len(buckets) for buckets, _ in rows)])
        values = [counts / np.linalg.norm(counts) for _, counts in rows]
        indices = np.concatenate([np.empty(0, dtype=np.int64), *(buckets for buckets, _ in rows)])
        return csr_array((np.concatenate([np.empty(0), *values]), indices, ends), shape=(len(texts), self.buckets))


class _ClassifierScorer(Scorer):
    def __init__(self, ngrams: HashedNgrams, weights: Float64s) -> None:
        self._ngrams, self._weights = ngrams, weights

    def score(self, texts: Sequence[str], hashes: UInt64s) -> Float64s:
        import numpy as np

        return np.array([self._score(text) for text in texts], dtype=np.float64)

    def _score(self, text: str) -> float:
        import numpy as np

        buckets, counts = np.unique(self._ngrams(text), return_counts=True)
        scaled = counts / np.linalg.norm(counts) if counts.size else np.empty(0)
        return float(self._weights[buckets] @ scaled + self._weights[-1])
