"""AdamP (arXiv:2006.08217, algorithm 2): Adam that projects the updates of scale-invariant weights to their tangent.

For a weight w with gradient g at step t, from m = v = 0:

    m <- b1 m + (1 - b1) g
    v <- b2 v + (1 - b2) g^2
    p <- m / (sqrt(v / (1 - b2^t)) + eps);   with `nesterov`, b1 m + (1 - b1) g takes the place of m
    w <- w (1 - lr wd) - lr / (1 - b1^t) p

projection.py has the projection of p, scale_invariance.py the test for it. Parameters that are not projected take one
fused AdamW pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from optim.adamw import AdamConstants, fused_adamw, gradients
from optim.optimizer import OPTIMIZERS
from optim.parameters import Param, TensorRanks
from optim.projection import ProjectedOptimizer, ProjectedOptimizerConfig
from optim.scale_invariance import ParamState


@OPTIMIZERS.register
class AdamPConfig(ProjectedOptimizerConfig):
    """Adam, its updates projected where weights are scale-invariant (arXiv 2006.08217).

    The constants are those published; the default weight decay is this project's.
    """

    name: Literal["adamp"] = "adamp"
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay rate of the running mean of the gradient.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay rate of the running mean of the squared gradient.")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        by_row = [{"pattern": ".*", "scale_invariant": "row"}]
        return (
            cls.model_validate({"lr": 1e-3}),
            cls.model_validate({"lr": 1e-3, "nesterov": True}),
            cls.model_validate({"lr": 1e-3, "table": by_row}),
        )

    def build_primary(self, params: Sequence[Param], ranks: TensorRanks) -> AdamP:
        return AdamP(self, params, ranks)


class AdamP(ProjectedOptimizer):
    """AdamP on parameters of any shape; vectors get plain Adam."""

    moment_names = ("exp_avg", "exp_avg_sq")

    def __init__(self, config: AdamPConfig, params: Sequence[Param], ranks: TensorRanks) -> None:
        super().__init__(config, params, ranks)
        self._constants = AdamConstants(config.beta1, config.beta2, config.eps)
        self._nesterov = config.nesterov

    def unprojected_step(
        self, targets: list[Tensor], states: Sequence[ParamState], *, lr: float, weight_decay: float
    ) -> None:
        grads = gradients([state.param for state in states])
        exp_avgs = [state.moments[0] for state in states]
        exp_avg_sqs = [state.moments[1] for state in states]
        if not self._nesterov:
            fused_adamw(
                targets,
                grads,
                exp_avgs,
                exp_avg_sqs,
                step=self.step_count,
                lr=lr,
                weight_decay=weight_decay,
                constants=self._constants,
            )
            return
        b1, b2 = self._constants.beta1, self._constants.beta2
        torch._foreach_lerp_(exp_avgs, grads, 1 - b1)
        torch._foreach_mul_(exp_avg_sqs, b2)
        torch._foreach_addcmul_(exp_avg_sqs, grads, grads, value=1 - b2)
        denominators = torch._foreach_sqrt(exp_avg_sqs)
        torch._foreach_div_(denominators, math.sqrt(1 - b2**self.step_count))
        torch._foreach_add_(denominators, self._constants.eps)
        lookahead = torch._foreach_lerp(grads, exp_avgs, b1)
        torch._foreach_mul_(targets, 1 - lr * weight_decay)
        torch._foreach_addcdiv_(targets, lookahead, denominators, value=-lr / (1 - b1**self.step_count))
