"""SGDP (arXiv 2006.08217): SGD with momentum whose updates of scale-invariant weights are projected to their tangent.

buf <- mu buf + (1 - dampening) g;  p = buf, with nesterov g + mu buf;  w <- w (1 - lr wd/(1 - mu)) - lr p.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from optim.adamw import gradients
from optim.groups import ParamRule
from optim.optimizer import OPTIMIZERS, Param, TensorRanks
from optim.projection import Member, Projected, ProjectedConfig


@OPTIMIZERS.register
class SGDPConfig(ProjectedConfig):
    """SGD with momentum, its updates projected where weights are scale-invariant (arXiv 2006.08217).

    Momentum 0.9 is this project's default; the authors' class has 0.
    """

    name: Literal["sgdp"] = "sgdp"
    momentum: float = Field(0.9, ge=0, lt=1, description="Decay rate of the running sum of the gradient.")
    dampening: float = Field(0.0, ge=0, le=1, description="Share of each gradient that is left out of the sum.")
    nesterov: bool = Field(False, description="Whether the gradient is added once more to the momentum (Nesterov).")

    def build_primary(self, params: Sequence[Param], ranks: TensorRanks) -> SGDP:
        return SGDP(self, params, ranks)


class SGDP(Projected):
    """SGDP on parameters of any shape; vectors get plain SGD with momentum."""

    moment_names = ("momentum",)

    def __init__(self, config: SGDPConfig, params: Sequence[Param], ranks: TensorRanks) -> None:
        super().__init__(config, params, ranks)
        self._momentum, self._dampening, self._nesterov = config.momentum, config.dampening, config.nesterov

    def decay(self, rule: ParamRule) -> float:
        return super().decay(rule) / (1 - self._momentum)

    def descend(self, targets: list[Tensor], members: Sequence[Member], *, lr: float, weight_decay: float) -> None:
        grads = gradients([member.param for member in members])
        buffers = [member.moments[0] for member in members]
        torch._foreach_mul_(buffers, self._momentum)
        torch._foreach_add_(buffers, grads, alpha=1 - self._dampening)
        if weight_decay:
            torch._foreach_mul_(targets, 1 - lr * weight_decay)
        if self._nesterov:
            torch._foreach_add_(targets, grads, alpha=-lr)
        torch._foreach_add_(targets, buffers, alpha=-lr * self._momentum if self._nesterov else -lr)
