"""Magnitude pruning (Han et al., arXiv:1506.02626): the score of a weight w is |w|."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from optim.pruning.criteria.base import CRITERIA, CriterionConfig


@CRITERIA.register
class MagnitudeConfig(CriterionConfig):
    """Prunes the weights of the smallest magnitude first."""

    name: Literal["magnitude"] = "magnitude"

    def scores(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        return weight.abs()
