"""AdamW: Adam with decoupled weight decay (arXiv:1711.05101, algorithm 2), in torch's fused kernels.

For a weight w with gradient g at step t, from m = v = 0:

    m <- b1 m + (1 - b1) g
    v <- b2 v + (1 - b2) g^2
    w <- w (1 - lr wd)
    w <- w - lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)

All operations are element-wise, so a shard of a parameter is updated where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from optim.chunks import chunk_slices
from optim.groups import ParamRule, rule_of
from optim.optimizer import OPTIMIZERS, Optimizer, OptimizerConfig
from optim.parameters import Param, StateTensor, TensorRanks

# Weights of one kernel call: large enough that calls cost nothing, small enough that the first ones can be sent early.
_CALL_BYTES = 64 << 20


@OPTIMIZERS.register
class AdamWConfig(OptimizerConfig):
    """AdamW for every parameter: Adam with decoupled weight decay (arXiv 1711.05101)."""

    elementwise: ClassVar[bool] = True

    name: Literal["adamw"] = "adamw"
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay rate of the running mean of the gradient.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay rate of the running mean of the squared gradient.")
    eps: float = Field(1e-8, gt=0, description="Added to the denominator of the update, so that it is never 0.")

    def build(self, params: Sequence[Param], ranks: TensorRanks) -> AdamW:
        return self.build_elementwise(params, [rule_of(self.table, param.name) for param in params])

    def build_elementwise(self, params: Sequence[Param], rules: Sequence[ParamRule]) -> AdamW:
        constants = AdamConstants(self.beta1, self.beta2, self.eps)
        return AdamW(params, rules, constants=constants, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class AdamConstants:
    """The constants of Adam's moments: b1, b2 and eps of the rule at the top of this file."""

    beta1: float
    beta2: float
    eps: float


@dataclass
class _Bucket:
    """Parameters with the same lr and decay: one kernel call updates them."""

    lr_multiplier: float
    weight_decay: float
    params: list[Param]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]


class AdamW(Optimizer):
    """The optimizer: parameters in buckets of one device, lr and decay. State: `exp_avg` is m, `exp_avg_sq` is v."""

    def __init__(
        self,
        params: Sequence[Param],
        rules: Sequence[ParamRule],
        *,
        constants: AdamConstants,
        weight_decay: float,
        lr_scale: float = 1.0,
    ) -> None:
        self._constants = constants
        self._lr_scale = lr_scale
        self._state: dict[str, StateTensor] = {}
        buckets: dict[tuple[torch.device, float, float], _Bucket] = {}
        for param, rule in zip(params, rules, strict=True):
            multiplier, decay = rule.lr_multiplier, rule.decay(weight_decay)
            key = (param.weight.device, multiplier, decay)
            bucket = buckets.setdefault(key, _Bucket(multiplier, decay, [], [], []))
            bucket.params.append(param)
            for moment, tensors in (("exp_avg", bucket.exp_avgs), ("exp_avg_sq", bucket.exp_avg_sqs)):
                tensor = torch.zeros_like(param.weight, memory_format=torch.contiguous_format, requires_grad=False)
                tensors.append(tensor)
                self._state[f"{param.name}.{moment}"] = StateTensor(tensor, param.dim, per_weight=True)
        self._buckets = list(buckets.values())

    @torch.no_grad()
    def step_in_buckets(self, *, lr: float) -> Iterator[Sequence[Param]]:
        self.step_count += 1
        for bucket in self._buckets:
            for chunk in chunk_slices([param.weight.nbytes for param in bucket.params], _CALL_BYTES):
                params = bucket.params[chunk]
                fused_adamw(
                    [param.weight for param in params],
                    gradients(params),
                    bucket.exp_avgs[chunk],
                    bucket.exp_avg_sqs[chunk],
                    step=self.step_count,
                    lr=lr * self._lr_scale * bucket.lr_multiplier,
                    weight_decay=bucket.weight_decay,
                    constants=self._constants,
                )
                yield params

    def state(self) -> dict[str, StateTensor]:
        return dict(self._state)


def gradients(params: Sequence[Param]) -> list[Tensor]:
    """Returns the parameters' gradients. A gradient that is not set is a bug of the engine."""
    grads = []
    for param in params:
        assert param.grad is not None, f"{param.name} has no gradient"
        grads.append(param.grad)
    return grads


def fused_adamw(
    weights: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    *,
    step: int,
    lr: float,
    weight_decay: float,
    constants: AdamConstants,
) -> None:
    """Applies the rule at the top of this file, in place, in one kernel call. All tensors are on one device.

    The lists are parallel: the i-th tensors of all four have one shape. `step` is t and counts from 1.
    torch.optim.AdamW keeps a step tensor per parameter; the kernel only reads it, so here one tensor serves all.
    """
    if not weights:
        return
    count = torch.full((), float(step), device=weights[0].device)
    torch._fused_adamw_(
        weights,
        grads,
        exp_avgs,
        exp_avg_sqs,
        [],
        [count] * len(weights),
        lr=lr,
        beta1=constants.beta1,
        beta2=constants.beta2,
        weight_decay=weight_decay,
        eps=constants.eps,
        amsgrad=False,
        maximize=False,
    )
