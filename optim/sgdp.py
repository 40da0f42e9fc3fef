"""SGDP (arXiv:2006.08217, algorithm 1): SGD that projects the updates of scale-invariant weights to their tangent.

For a weight w with gradient g, momentum mu and dampening d, from m = 0:

    m <- mu m + (1 - d) g
    p <- m;   with `nesterov`, g + mu m
    w <- w (1 - lr wd / (1 - mu)) - lr p

projection.py has the projection of p, scale_invariance.py the test for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from optim.adamw import gradients
from optim.groups import ParamRule
from optim.optimizer import OPTIMIZERS
from optim.parameters import Param, TensorRanks
from optim.projection import ProjectedOptimizer, ProjectedOptimizerConfig
from optim.scale_invariance import ParamState


@OPTIMIZERS.register
class SGDPConfig(ProjectedOptimizerConfig):
    """SGD with momentum, its updates projected where weights are scale-invariant (arXiv 2006.08217).

    Momentum 0.9 is this project's default; the authors' class has 0.
    """

    name: Literal["sgdp"] = "sgdp"
    momentum: float = Field(0.9, ge=0, lt=1, description="Decay rate of the running sum of the gradient.")
    dampening: float = Field(0.0, ge=0, le=1, description="Share of each gradient that is left out of the sum.")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls.model_validate({"lr": 1e-2}),
            cls.model_validate({"lr": 1e-2, "nesterov": True, "dampening": 0.1}),
        )

    def build_primary(self, params: Sequence[Param], ranks: TensorRanks) -> SGDP:
        return SGDP(self, params, ranks)


class SGDP(ProjectedOptimizer):
    """SGDP on parameters of any shape; vectors get plain SGD with momentum."""

    moment_names = ("momentum",)

    def __init__(self, config: SGDPConfig, params: Sequence[Param], ranks: TensorRanks) -> None:
        super().__init__(config, params, ranks)
        self._momentum, self._dampening, self._nesterov = config.momentum, config.dampening, config.nesterov

    def decay(self, rule: ParamRule) -> float:
        return super().decay(rule) / (1 - self._momentum)

    def unprojected_step(
        self, targets: list[Tensor], states: Sequence[ParamState], *, lr: float, weight_decay: float
    ) -> None:
        grads = gradients([state.param for state in states])
        buffers = [state.moments[0] for state in states]
        torch._foreach_mul_(buffers, self._momentum)
        torch._foreach_add_(buffers, grads, alpha=1 - self._dampening)
        if weight_decay:
            torch._foreach_mul_(targets, 1 - lr * weight_decay)
        if self._nesterov:
            torch._foreach_add_(targets, grads, alpha=-lr)
        torch._foreach_add_(targets, buffers, alpha=-lr * self._momentum if self._nesterov else -lr)
