"""Mixed optimizers: a primary method for some parameters, a fallback AdamW for the others (`optim.table`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from optim.adamw import AdamConstants, AdamW
from optim.groups import rule_of
from optim.optimizer import ELEMENT_COST, Optimizer, OptimizerConfig
from optim.parameters import Param, StateTensor, TensorRanks
from settings import Settings, UserError


class FallbackAdamWConfig(Settings):
    """AdamW for the parameters whose row of the table says `method: adamw`."""

    lr: float | None = Field(None, gt=0, description="Peak learning rate; null means the optimizer's lr.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay rate of the running mean of the gradient.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay rate of the running mean of the squared gradient.")
    eps: float = Field(1e-8, gt=0, description="Added to the denominator of the update, so that it is never 0.")

    def build(self, params: Sequence[Param], config: OptimizerConfig) -> AdamW:
        """Builds AdamW for `params`. Its lr is the schedule's, times the ratio of the two peaks."""
        rules = [rule_of(config.table, param.name) for param in params]
        constants = AdamConstants(self.beta1, self.beta2, self.eps)
        scale = 1.0 if self.lr is None else self.lr / config.lr
        return AdamW(params, rules, constants=constants, weight_decay=config.weight_decay, lr_scale=scale)


class MixedOptimizerConfig(OptimizerConfig):
    """A config whose table splits the parameters between a primary method and the fallback AdamW."""

    adamw: FallbackAdamWConfig = Field(
        FallbackAdamWConfig(), description="AdamW, for the parameters whose row of the table says `method: adamw`."
    )

    def build(self, params: Sequence[Param], ranks: TensorRanks) -> CombinedOptimizer:
        primary = [param for param in params if self.is_primary(param.name)]
        fallback = [param for param in params if not self.is_primary(param.name)]
        return CombinedOptimizer(self.build_primary(primary, ranks), self.adamw.build(fallback, self))

    def build_primary(self, params: Sequence[Param], ranks: TensorRanks) -> Optimizer:
        """Builds the optimizer of the parameters with `method: own`."""
        raise AssertionError(f"{type(self).__name__} has no build_primary")


class MatrixOptimizerConfig(MixedOptimizerConfig):
    """A mixed optimizer whose primary method updates matrices only."""

    def matrix_cost(self, shape: Sequence[int]) -> float:
        """Returns what the primary method costs beyond an element-wise pass, for a full matrix (see `cost`)."""
        raise AssertionError(f"{type(self).__name__} has no matrix_cost")

    def cost(self, shape: Sequence[int], name: str | None = None) -> float:
        primary = self.is_primary(name) and len(shape) == 2
        return ELEMENT_COST * math.prod(shape) + (self.matrix_cost(shape) if primary else 0.0)

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Also raises UserError if the primary method is to update a parameter that is no matrix."""
        super().check(shapes)
        for name, shape in shapes.items():
            if self.is_primary(name) and len(shape) != 2:
                raise UserError(
                    f"optim.table: {name} of shape {tuple(shape)} is no matrix, which optim.name = {self.name} needs; "
                    "give it a row with method: adamw"
                )


class CombinedOptimizer(Optimizer):
    """A primary optimizer and a fallback AdamW that step together, with one step count.

    AdamW steps first: it updates the large embeddings quickly, and they are sent while the primary method works.
    """

    def __init__(self, primary: Optimizer, fallback: AdamW) -> None:
        self._optimizers = (fallback, primary)

    def step_in_buckets(self, *, lr: float) -> Iterator[Sequence[Param]]:
        for optimizer in self._with_step_count():
            yield from optimizer.step_in_buckets(lr=lr)
        self.step_count += 1

    def state(self) -> dict[str, StateTensor]:
        return {key: value for optimizer in self._optimizers for key, value in optimizer.state().items()}

    def diagnostics(self) -> dict[str, float]:
        return {key: value for optimizer in self._with_step_count() for key, value in optimizer.diagnostics().items()}

    def _with_step_count(self) -> Iterator[Optimizer]:
        """Yields both optimizers with this one's step count, which the engine sets when it resumes a run."""
        for optimizer in self._optimizers:
            optimizer.step_count = self.step_count
            yield optimizer
