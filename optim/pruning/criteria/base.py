"""The contract of a pruning criterion: a score for each weight; the weights of the lowest scores are pruned first."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from settings import Registry, Settings


class CriterionConfig(Settings):
    """The settings of a criterion."""

    uses_gradient: ClassVar[bool] = False  # whether it reads the gradient, which ZeRO 2 and 3 do not have in time

    name: str = Field(description="Name of the criterion.")

    def scores(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        """Returns a score of 0 or more for each weight, float32 in the shape of `weight`.

        It must be element-wise, so that a shard has the scores of the full matrix. `gradient` is None unless
        `uses_gradient`.
        """
        raise AssertionError(f"{type(self).__name__} has no scores")


CRITERIA = Registry("criterion", room="optim.pruning.criteria", base=CriterionConfig)
