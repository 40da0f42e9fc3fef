"""An optimizer with AdamW beside it for the parameters that it leaves out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from optim.adamw import AdamW, Moments
from optim.groups import rule_of
from optim.optimizer import ELEMENT_COST, Optimizer, OptimizerConfig, Param, StateTensor, TensorRanks
from settings import Settings, UserError


class FallbackAdamWConfig(Settings):
    """AdamW for the parameters whose row of the table says `method: adamw`."""

    lr: float | None = Field(None, gt=0, description="Peak learning rate; null means the optimizer's lr.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay rate of the running mean of the gradient.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay rate of the running mean of the squared gradient.")
    eps: float = Field(1e-8, gt=0, description="Added to the denominator of the update, so that it is never 0.")

    def build(self, params: Sequence[Param], config: OptimizerConfig) -> AdamW:
        """AdamW for `params`; its lr follows the schedule in proportion to the two peaks."""
        rules = [rule_of(config.table, param.name) for param in params]
        moments = Moments(self.beta1, self.beta2, self.eps)
        scale = 1.0 if self.lr is None else self.lr / config.lr
        return AdamW(params, rules, moments=moments, weight_decay=config.weight_decay, lr_scale=scale)


class MixedOptimizerConfig(OptimizerConfig):
    """A config whose table splits the parameters between its own rule and AdamW."""

    adamw: FallbackAdamWConfig = Field(
        FallbackAdamWConfig(), description="AdamW, for the parameters whose row of the table says `method: adamw`."
    )

    def build(self, params: Sequence[Param], ranks: TensorRanks) -> CombinedOptimizer:
        own = [param for param in params if self.own(param.name)]
        rest = [param for param in params if not self.own(param.name)]
        return CombinedOptimizer(self.build_primary(own, ranks), self.adamw.build(rest, self))

    def build_primary(self, params: Sequence[Param], ranks: TensorRanks) -> Optimizer:
        """The optimizer of the parameters with `method: own`."""
        raise AssertionError(f"{type(self).__name__} has no build_primary")


class MatrixConfig(MixedOptimizerConfig):
    """Its own rule is for matrices only."""

    def matrix_cost(self, shape: Sequence[int]) -> float:
        """What the own rule adds to the cost of a matrix (see `cost`)."""
        raise AssertionError(f"{type(self).__name__} has no matrix_cost")

    def cost(self, shape: Sequence[int], name: str | None = None) -> float:
        own = self.own(name) and len(shape) == 2
        return ELEMENT_COST * math.prod(shape) + (self.matrix_cost(shape) if own else 0.0)

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Also: all that takes the optimizer's own rule is a matrix."""
        super().check(shapes)
        for name, shape in shapes.items():
            if self.own(name) and len(shape) != 2:
                raise UserError(
                    f"optim.table: {name} of shape {tuple(shape)} is no matrix, which optim.name = {self.name} needs; "
                    "give it a row with method: adamw"
                )


class CombinedOptimizer(Optimizer):
    """Both step together, and count together. AdamW's large and quickly updated tables are done first."""

    def __init__(self, own: Optimizer, beside: AdamW) -> None:
        self._parts = (beside, own)

    def updates(self, *, lr: float) -> Iterator[Sequence[Param]]:
        for part in self._counting():
            yield from part.updates(lr=lr)
        self.step_count += 1

    def state(self) -> dict[str, StateTensor]:
        return {key: value for part in self._parts for key, value in part.state().items()}

    def diagnostics(self) -> dict[str, float]:
        return {key: value for part in self._counting() for key, value in part.diagnostics().items()}

    def _counting(self) -> Iterator[Optimizer]:
        """The parts, each told the count, which the engine sets here when it restores a run."""
        for part in self._parts:
            part.step_count = self.step_count
            yield part
