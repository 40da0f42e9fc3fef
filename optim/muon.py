"""Muon (github.com/KellerJordan/Muon; for large models arXiv:2502.16982, section 2): orthogonalise momentum.

For a matrix W [m, n] with gradient G and momentum mu, from M = 0:

    M <- mu M + (1 - mu) G
    U <- mu M + (1 - mu) G with `nesterov`, else M
    O <- `iterations` Newton-Schulz steps from U / |U|, towards the orthogonal factor of U
    W <- W (1 - lr wd) - lr s O,   s = sqrt(max(1, m / n)) or 0.2 sqrt(max(m, n)) (`update_scale`)

One Newton-Schulz step is X <- a X + (b A + c A^2) X with A = X X'.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from optim.adamw import gradients
from optim.chunks import bucket_by, chunk_slices, scratch_bytes
from optim.groups import ADAMW_FOR_NON_MATRICES, ParamRule, rule_of
from optim.mixed import MatrixOptimizerConfig
from optim.optimizer import OPTIMIZERS, Optimizer
from optim.parameters import Param, StateTensor, TensorRanks
from optim.sums import squared_norms

# a, b, c as published: they maximise the slope at zero, and bring singular values into about [0.7, 1.2].
_A, _B, _C = 3.4445, -4.7750, 2.0315
_SMALLEST_NORM = 1e-7


@OPTIMIZERS.register
class MuonConfig(MatrixOptimizerConfig):
    """Muon for matrices: momentum made orthogonal; AdamW for all else. The constants are those published."""

    name: Literal["muon"] = "muon"
    table: tuple[ParamRule, ...] = Field(
        ADAMW_FOR_NON_MATRICES,
        description="How parameters are updated, by name; the first row whose pattern matches counts.",
    )
    momentum: float = Field(0.95, ge=0, lt=1, description="Decay rate of the running mean of the gradient.")
    nesterov: bool = Field(True, description="Whether the gradient is mixed once more into that mean (Nesterov).")
    iterations: int = Field(5, ge=1, lt=100, description="Newton-Schulz iterations that make the update orthogonal.")
    update_scale: Literal["original", "match_rms_adamw"] = Field(
        "original",
        description="Factor on the update of an m x n matrix: sqrt(max(1, m/n)) (original), or 0.2 sqrt(max(m, n)), "
        "with which lr and weight decay of AdamW can be used (match_rms_adamw).",
    )
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Number format of the iterations, published as bfloat16; auto is bfloat16 on a GPU and float32 on "
        "a CPU.",
    )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        return (
            cls.model_validate({"lr": 2e-3}),
            cls.model_validate({"lr": 2e-3, "nesterov": False, "update_scale": "match_rms_adamw"}),
        )

    def build_primary(self, params: Sequence[Param], ranks: TensorRanks) -> Muon:
        return Muon(self, params, ranks)

    def matrix_cost(self, shape: Sequence[int]) -> float:
        k = min(shape)
        return self.iterations * (4.0 * math.prod(shape) * k + 2.0 * k**3)

    def scale(self, shape: Sequence[int]) -> float:
        """Returns s, the factor of lr for a full matrix of this shape."""
        rows, columns = shape
        if self.update_scale == "original":
            return math.sqrt(max(1.0, rows / columns))
        return 0.2 * math.sqrt(max(rows, columns))


class Muon(Optimizer):
    """Muon on matrices, in buckets of one shape, sharding and row of the table.

    Sharded matrices are resharded so that each tensor rank holds some of them in full and orthogonalises those.
    """

    def __init__(self, config: MuonConfig, params: Sequence[Param], ranks: TensorRanks) -> None:
        self._config, self._ranks = config, ranks
        self._buffers = {param.name: torch.zeros_like(param.weight.detach()) for param in params}
        self._dims = {param.name: param.dim for param in params}
        self._buckets = bucket_by(params, lambda p: (p.shape, p.dim, p.weight.device, rule_of(config.table, p.name)))

    @torch.no_grad()
    def step_in_buckets(self, *, lr: float) -> Iterator[Sequence[Param]]:
        self.step_count += 1
        for bucket in self._buckets:
            full_bytes = math.prod(bucket[0].shape) * bucket[0].weight.element_size()
            max_bytes = scratch_bytes(bucket[0].weight.device) * self._ranks.tp_size
            for chunk in chunk_slices([full_bytes] * len(bucket), max_bytes):
                self._step(bucket[chunk], lr)
                yield bucket[chunk]

    def state(self) -> dict[str, StateTensor]:
        return {
            f"{name}.momentum": StateTensor(b, self._dims[name], per_weight=True) for name, b in self._buffers.items()
        }

    def _step(self, params: list[Param], lr: float) -> None:
        """Updates matrices of one shape, sharding and row of the table."""
        config, rule, dim = self._config, rule_of(self._config.table, params[0].name), params[0].dim
        grads = gradients(params)
        buffers = [self._buffers[param.name] for param in params]
        torch._foreach_lerp_(buffers, grads, 1 - config.momentum)
        lookahead = torch._foreach_lerp(grads, buffers, config.momentum) if config.nesterov else buffers
        stack = torch.stack(lookahead)  # [b, m, n], sharded along dim + 1
        bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and stack.device.type != "cpu")
        dtype = torch.bfloat16 if bfloat16 else stack.dtype
        if dim is None or self._ranks.tp_size == 1:
            update = orthogonalise(stack.to(dtype), config.iterations)
        else:
            padding = -len(params) % self._ranks.tp_size  # zero matrices, so that every rank gets equally many
            stack = torch.cat([stack, stack.new_zeros(padding, *stack.shape[1:])]) if padding else stack
            full = self._ranks.reshard(stack.to(dtype), have=dim + 1, want=0)
            update = self._ranks.reshard(orthogonalise(full, config.iterations), have=0, want=dim + 1)
        lr = lr * rule.lr_multiplier
        weights = [param.weight for param in params]
        decay = lr * rule.decay(config.weight_decay)
        if decay:
            torch._foreach_mul_(weights, 1 - decay)
        updates = update[: len(params)].to(weights[0].dtype).unbind()
        torch._foreach_add_(weights, updates, alpha=-lr * config.scale(params[0].shape))


def orthogonalise(x: Tensor, iterations: int) -> Tensor:
    """Returns [b, m, n]: of each matrix of [b, m, n], about the factor U V' of its singular value decomposition U S V'.

    The Newton-Schulz steps start from the matrix divided by its Frobenius norm.
    """
    tall = x.shape[1] > x.shape[2]
    norm_b = squared_norms(x.flatten(1)).sqrt().to(x.dtype)
    x = x.mT if tall else x
    x = x / norm_b.clamp_min(_SMALLEST_NORM)[:, None, None]
    # The loop writes into these buffers: fresh memory in each step would cost a tenth of the time.
    gram, following = x.new_empty(*x.shape[:2], x.shape[1]), torch.empty_like(x)
    polynomial = torch.empty_like(gram)
    for _ in range(iterations):
        torch.bmm(x, x.mT, out=gram)
        torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C, out=polynomial)
        torch.baddbmm(x, polynomial, x, beta=_A, out=following)
        x, following = following, x
    return x.mT if tall else x
