"""Gradient-weighted pruning (Molchanov et al., arXiv:1611.06440): the score of a weight w is |w g|.

That is how much the loss changes, to first order, if the weight becomes zero. g is the gradient of the step in which
weights are pruned.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from optim.pruning.criteria.base import CRITERIA, CriterionConfig


@CRITERIA.register
class GradientWeightedConfig(CriterionConfig):
    """Prunes the weights first whose product with their gradient is smallest: |w g| (arXiv 1611.06440)."""

    uses_gradient: ClassVar[bool] = True

    name: Literal["gradient_weighted"] = "gradient_weighted"

    def scores(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        assert gradient is not None, "the engine has set no gradient"
        return (weight * gradient).abs()
