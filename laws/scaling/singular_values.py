"""The top singular values of two models of different widths: are the two matched (arXiv 2510.15262)?

Under AdamW a matrix's singular values settle where weight decay balances the updates; the top one at a constant times
sqrt(lr / weight_decay) width^0.75. Hyperparameters carry over a width where it is the same at both: that is what
lr ~ 1 / width with weight_decay ~ sqrt(width) does (laws/scaling/hyperparameters.py). Here the weights tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from settings import UserError

Matrix = NDArray[np.floating]


@dataclass(frozen=True)
class WidthMatch:
    """A matrix of both models: its top singular value in each."""

    name: str
    tuned: float
    other: float

    @property
    def ratio(self) -> float:
        """Other over tuned; 1 if the two are matched."""
        return self.other / self.tuned


def top_singular_value(matrix: Matrix) -> float:
    """Returns the top singular value of a matrix [m, n], by its smaller Gram matrix, in O(m n min(m, n))."""
    weight = np.asarray(matrix, dtype=np.float64)
    if weight.ndim != 2 or not np.all(np.isfinite(weight)):
        raise UserError(f"a top singular value is that of a finite matrix; this has the shape {weight.shape}")
    gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    last = gram.shape[0] - 1
    (largest,) = eigh(gram, eigvals_only=True, subset_by_index=(last, last))
    return float(np.sqrt(max(float(largest), 0.0)))


def match_widths(tuned: Mapping[str, Matrix], other: Mapping[str, Matrix]) -> tuple[WidthMatch, ...]:
    """Compares every matrix that both models have, by name; vectors are left out.

    Raises UserError where no matrix is in both, or one of them is 0.
    """
    shared = [name for name, weight in tuned.items() if np.ndim(weight) == 2 and np.ndim(other.get(name, 0.0)) == 2]
    if not shared:
        raise UserError("the two models have no matrix of the same name: compare models of one architecture")
    found = tuple(WidthMatch(name, top_singular_value(tuned[name]), top_singular_value(other[name])) for name in shared)
    for match in found:
        if match.tuned == 0 or match.other == 0:
            raise UserError(f"{match.name} is 0 in one of the models: compare trained ones")
    return found


def mean_ratio(matches: tuple[WidthMatch, ...]) -> float:
    """Returns the geometric mean of the ratios."""
    return float(np.exp(np.mean([np.log(match.ratio) for match in matches])))
