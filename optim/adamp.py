"""AdamP (arXiv 2006.08217): Adam whose updates of scale-invariant weights are projected to their tangent.

p = m / (sqrt(v/(1-b2^t)) + eps), with nesterov (b1 m + (1-b1) g) in place of m; step lr/(1-b1^t); projection.py has the
test and the projection. What is not projected is one fused AdamW pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from optim.adamw import Moments, fused_adamw, gradients
from optim.optimizer import OPTIMIZERS, Param, TensorRanks
from optim.projection import Member, Projected, ProjectedConfig


@OPTIMIZERS.register
class AdamPConfig(ProjectedConfig):
    """Adam, its updates projected where weights are scale-invariant (arXiv 2006.08217).

    The constants are those published; the default weight decay is this project's.
    """

    name: Literal["adamp"] = "adamp"
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay rate of the running mean of the gradient.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay rate of the running mean of the squared gradient.")
    nesterov: bool = Field(
        False, description="Whether the gradient is mixed once more into its running mean (Nesterov)."
    )

    def build_primary(self, params: Sequence[Param], ranks: TensorRanks) -> AdamP:
        return AdamP(self, params, ranks)


class AdamP(Projected):
    """AdamP on parameters of any shape; vectors get plain Adam."""

    moment_names = ("exp_avg", "exp_avg_sq")

    def __init__(self, config: AdamPConfig, params: Sequence[Param], ranks: TensorRanks) -> None:
        super().__init__(config, params, ranks)
        self._moments = Moments(config.beta1, config.beta2, config.eps)
        self._nesterov = config.nesterov

    def descend(self, targets: list[Tensor], members: Sequence[Member], *, lr: float, weight_decay: float) -> None:
        grads = gradients([member.param for member in members])
        exp_avgs = [member.moments[0] for member in members]
        exp_avg_sqs = [member.moments[1] for member in members]
        if not self._nesterov:
            fused_adamw(
                targets,
                grads,
                exp_avgs,
                exp_avg_sqs,
                step=self.step_count,
                lr=lr,
                weight_decay=weight_decay,
                moments=self._moments,
            )
            return
        b1, b2 = self._moments.beta1, self._moments.beta2
        torch._foreach_lerp_(exp_avgs, grads, 1 - b1)
        torch._foreach_mul_(exp_avg_sqs, b2)
        torch._foreach_addcmul_(exp_avg_sqs, grads, grads, value=1 - b2)
        denominators = torch._foreach_sqrt(exp_avg_sqs)
        torch._foreach_div_(denominators, math.sqrt(1 - b2**self.step_count))
        torch._foreach_add_(denominators, self._moments.eps)
        ahead = torch._foreach_lerp(grads, exp_avgs, b1)
        torch._foreach_mul_(targets, 1 - lr * weight_decay)
        torch._foreach_addcdiv_(targets, ahead, denominators, value=-lr / (1 - b1**self.step_count))
