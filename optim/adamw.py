"""AdamW: Adam with decoupled weight decay (arXiv 1711.05101), in torch's fused kernels.

m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2;  w <- w (1 - lr wd);  w <- w - lr/(1-b1^t) m / (sqrt(v/(1-b2^t)) + eps)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from optim.batches import runs
from optim.groups import ParamRule, rule_of
from optim.optimizer import OPTIMIZERS, Optimizer, OptimizerConfig, Param, StateTensor, TensorRanks

# One kernel call's weights: enough that calls cost nothing, and some are done before all are.
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
        return self.build_flat(params, [rule_of(self.table, param.name) for param in params])

    def build_flat(self, params: Sequence[Param], rules: Sequence[ParamRule]) -> AdamW:
        moments = Moments(self.beta1, self.beta2, self.eps)
        return AdamW(params, rules, moments=moments, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class Moments:
    """Adam's constants."""

    beta1: float
    beta2: float
    eps: float


@dataclass
class _Bucket:
    """Parameters of one lr and decay: one kernel call."""

    lr_multiplier: float
    weight_decay: float
    params: list[Param]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]


class AdamW(Optimizer):
    """Element-wise, so slices are updated where they are: nothing is exchanged between ranks."""

    def __init__(
        self,
        params: Sequence[Param],
        rules: Sequence[ParamRule],
        *,
        moments: Moments,
        weight_decay: float,
        lr_scale: float = 1.0,
    ) -> None:
        self._moments = moments
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
                self._state[f"{param.name}.{moment}"] = StateTensor(tensor, param.dim)
        self._buckets = list(buckets.values())

    @torch.no_grad()
    def updates(self, *, lr: float) -> Iterator[Sequence[Param]]:
        self.step_count += 1
        for bucket in self._buckets:
            for run in runs([param.weight.nbytes for param in bucket.params], _CALL_BYTES):
                params = bucket.params[run]
                fused_adamw(
                    [param.weight for param in params],
                    gradients(params),
                    bucket.exp_avgs[run],
                    bucket.exp_avg_sqs[run],
                    step=self.step_count,
                    lr=lr * self._lr_scale * bucket.lr_multiplier,
                    weight_decay=bucket.weight_decay,
                    moments=self._moments,
                )
                yield params

    def state(self) -> dict[str, StateTensor]:
        return dict(self._state)


def gradients(params: Sequence[Param]) -> list[Tensor]:
    """The parameters' gradients; one that was not set is a bug of the engine."""
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
    moments: Moments,
) -> None:
    """One fused pass of the rule at the top of this file over lists of equally shaped tensors, all on one device.

    `step` counts from 1. Torch's own class would take the step from a tensor per parameter that it increments; the
    kernel only reads it, so one tensor serves all and the count stays in one place.
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
        beta1=moments.beta1,
        beta2=moments.beta2,
        weight_decay=weight_decay,
        eps=moments.eps,
        amsgrad=False,
        maximize=False,
    )
