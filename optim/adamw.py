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
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from optim.chunks import chunk_slices
from optim.groups import ParamRule, rule_of
from optim.optimizer import OPTIMIZERS, Optimizer, OptimizerConfig
from optim.parameters import Param, StateTensor, TensorRanks, flat_view, runs_in_memory

# Weights of one kernel call: large enough that calls cost nothing, small enough that the first ones can be sent early.
# On a GPU a call of more would be several kernels, each of at most 320 blocks of 65,536 elements.
_CALL_BYTES = 320 * 65536 * 4
_COUNTS = 1024


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


class _Run:
    """Parameters that follow each other in memory, as in the engines' flat buffers: to the kernel they are one tensor.

    So are their moments. A parameter alone may have another weight and gradient in each step.
    """

    def __init__(self, params: list[Param]) -> None:
        self.params = params
        self._weight: Tensor | None = None
        self._grad: Tensor | None = None
        if len(params) > 1:
            self._grads = gradients(params)
            self._weight, self._grad = flat_view([param.weight for param in params]), flat_view(self._grads)
        like = self.weight
        self.exp_avg, self.exp_avg_sq = (
            torch.zeros_like(like, memory_format=torch.contiguous_format, requires_grad=False) for _ in range(2)
        )

    @property
    def weight(self) -> Tensor:
        return self.params[0].weight if self._weight is None else self._weight

    @property
    def grad(self) -> Tensor:
        if self._grad is None:
            return gradients(self.params)[0]
        for param, grad in zip(self.params, self._grads, strict=True):
            assert param.grad is grad, f"the gradient of {param.name} has moved out of the flat buffer"
        return self._grad

    def state(self) -> dict[str, StateTensor]:
        """Returns the moments of each parameter, as views."""
        state = {}
        sizes = [param.weight.numel() for param in self.params]
        for moment, tensor in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            for param, part in zip(self.params, tensor.view(-1).split(sizes), strict=True):
                state[f"{param.name}.{moment}"] = StateTensor(part.view_as(param.weight), param.dim, per_weight=True)
        return state


@dataclass(frozen=True)
class _Call:
    """Parameters with the same device, lr and decay that one kernel call updates."""

    lr_multiplier: float
    weight_decay: float
    params: list[Param]
    runs: list[_Run]


class AdamW(Optimizer):
    """The optimizer. State: `exp_avg` is m, `exp_avg_sq` is v."""

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
        self._calls: list[_Call] = []
        buckets: dict[tuple[torch.device, float, float], list[Param]] = {}
        for param, rule in zip(params, rules, strict=True):
            buckets.setdefault((param.weight.device, rule.lr_multiplier, rule.decay(weight_decay)), []).append(param)
        for (_, multiplier, decay), bucket in buckets.items():
            for chunk in chunk_slices([param.weight.nbytes for param in bucket], _CALL_BYTES):
                called = bucket[chunk]
                runs = runs_in_memory([param.weight for param in called], [param.grad for param in called])
                self._calls.append(_Call(multiplier, decay, called, [_Run(called[run]) for run in runs]))
        self._state = {key: value for call in self._calls for run in call.runs for key, value in run.state().items()}

    @torch.no_grad()
    def step_in_buckets(self, *, lr: float) -> Iterator[Sequence[Param]]:
        self.step_count += 1
        for call in self._calls:
            fused_adamw(
                [run.weight for run in call.runs],
                [run.grad for run in call.runs],
                [run.exp_avg for run in call.runs],
                [run.exp_avg_sq for run in call.runs],
                step=self.step_count,
                lr=lr * self._lr_scale * call.lr_multiplier,
                weight_decay=call.weight_decay,
                constants=self._constants,
            )
            yield call.params

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
    count = _count(step, weights[0].device)
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


def _count(step: int, device: torch.device) -> Tensor:
    """Returns the number of a step as a tensor on the device."""
    return _counts(step // _COUNTS, device)[step % _COUNTS]


@lru_cache(maxsize=4)
def _counts(number: int, device: torch.device) -> Tensor:
    """Returns the numbers of many steps, so that not every step of a GPU needs a kernel for its own."""
    return torch.arange(number * _COUNTS, (number + 1) * _COUNTS, dtype=torch.float32, device=device)
