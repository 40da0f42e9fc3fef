"""Conda (arXiv:2509.24218, algorithm 1): Adam in a one-sided eigenbasis of the momentum.

For a matrix W [m, n] with gradient G at step t, from M = 0 and v = 0, and every T = `refresh_interval` steps a basis Q
of the singular vectors of the updated M = U S V' on its shorter side, V if m >= n (tall), else U (wide):

    M <- b1 M + (1 - b1) G
    G~ = G Q,   M~ = M Q   (tall)     or   G~ = Q' G,   M~ = Q' M   (wide)
    v <- b2 v + (1 - b2) G~^2
    N = M~ / (sqrt(v) + eps)
    W <- W - lr sqrt(1 - b2^t) / (1 - b1^t) scale N Q'   (tall; Q N if wide)
    W <- W - lr wd W

Two identities make it cheap and change rounding only. Between two refreshes M~ obeys the recursion of M, so M~ itself
is stored: two matrix products a step instead of three, and the element-wise part is exactly one fused Adam pass. And
the columns of Q are the eigenvectors of M'M (or MM'); they are computed in float64, where squaring the singular values
loses nothing that float32 had.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from optim.adamw import AdamConstants, fused_adamw, gradients
from optim.chunks import ScratchBuffers, bucket_by, chunk_slices, scratch_bytes
from optim.groups import ADAMW_FOR_NON_MATRICES, ParamRule, rule_of
from optim.mixed import FallbackAdamWConfig, MatrixOptimizerConfig
from optim.optimizer import OPTIMIZERS, Optimizer
from optim.parameters import Param, StateTensor, TensorRanks

EIGEN_FLOPS = 60.0  # fp32 flop equivalents of an eigh of [k, k], per k^3 (measured: 42 ms for k = 512 at 200 GFLOP/s)


@OPTIMIZERS.register
class CondaConfig(MatrixOptimizerConfig):
    """Conda for matrices: Adam in a basis of the momentum's singular vectors; AdamW for all else.

    The defaults are those of the authors' LLaMA scripts, which use lr 0.01 for all parameters.
    """

    name: Literal["conda"] = "conda"
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay; it is multiplied by the learning rate.")
    table: tuple[ParamRule, ...] = Field(
        ADAMW_FOR_NON_MATRICES,
        description="How parameters are updated, by name; the first row whose pattern matches counts.",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay rate of the running mean of the gradient.")
    beta2: float = Field(0.99, ge=0, lt=1, description="Decay rate of the running mean of the squared gradient.")
    eps: float = Field(1e-8, gt=0, description="Added to the denominator of the update, so that it is never 0.")
    scale: float = Field(0.25, gt=0, description="Factor on the update of the matrices, not on their weight decay.")
    refresh_interval: int = Field(2000, ge=1, description="Steps from one basis of a matrix to the next.")
    stagger: bool = Field(
        False,
        description="Whether each matrix gets a new basis at its own step of the interval; published: false.",
    )
    decay_order: Literal["after", "before"] = Field(
        "after", description="Whether the weight decay comes after or before the update; published: after."
    )
    second_moment: Literal["keep", "rotate"] = Field(
        "keep",
        description="What becomes of the second moment with a new basis: it is kept, or replaced by its expectation in "
        "the new basis (rotate); published: keep.",
    )
    adamw: FallbackAdamWConfig = Field(
        FallbackAdamWConfig(beta2=0.99),
        description="AdamW, for the parameters whose row of the table says `method: adamw`.",
    )

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        plain = {"lr": 2e-3, "refresh_interval": 3, "weight_decay": 0.1}
        return (
            cls.model_validate(plain),
            cls.model_validate({**plain, "stagger": True, "second_moment": "rotate", "decay_order": "before"}),
        )

    def build_primary(self, params: Sequence[Param], ranks: TensorRanks) -> Conda:
        return Conda(self, params, ranks)

    def matrix_cost(self, shape: Sequence[int]) -> float:
        k = min(shape)
        return 4.0 * math.prod(shape) * k + EIGEN_FLOPS * k**3 / self.refresh_interval


class Conda(Optimizer):
    """Conda on matrices, in buckets of one shape, sharding, device and row of the table."""

    def __init__(self, config: CondaConfig, params: Sequence[Param], ranks: TensorRanks) -> None:
        scratch = ScratchBuffers()
        self._buckets = [
            _Bucket(config, bucket, ranks, scratch)
            for bucket in bucket_by(params, lambda p: (p.shape, p.dim, p.weight.device, rule_of(config.table, p.name)))
        ]

    @torch.no_grad()
    def step_in_buckets(self, *, lr: float) -> Iterator[Sequence[Param]]:
        for bucket in self._buckets:
            yield from bucket.step_in_chunks(self.step_count, lr)
        self.step_count += 1

    def state(self) -> dict[str, StateTensor]:
        return {key: value for bucket in self._buckets for key, value in bucket.state().items()}


class _Bucket:
    """Matrices of one shape, sharding, lr and decay. Moments [b, m, n] and bases [b, k, k], k = min(m, n), are stacks.

    `_moment_dim` is the dim along which the moments are sharded. A rotation needs the rotated dim in full. If the
    weights are sharded along the other dim, the rotation is local and the moments are sharded like the weights. If they
    are sharded along the rotated dim, gradient and update are resharded to the other dim and the moments stay there; if
    the ranks do not divide that dim, every rank holds the full moments.
    """

    def __init__(self, config: CondaConfig, params: list[Param], ranks: TensorRanks, scratch: ScratchBuffers) -> None:
        self._config, self._params, self._ranks, self._scratch = config, params, ranks, scratch
        self._rule = rule_of(config.table, params[0].name)
        rows, columns = params[0].shape
        self._tall = rows >= columns  # by the full shape: a shard of a tall matrix can be wide
        self._dim = params[0].dim
        rotated_dim = 1 if self._tall else 0
        other_dim = 1 - rotated_dim
        self._moment_dim: int | None = self._dim
        if self._dim == rotated_dim:
            self._moment_dim = other_dim if params[0].shape[other_dim] % ranks.tp_size == 0 else None
        shape = [rows, columns]
        if self._moment_dim is not None:
            shape[self._moment_dim] //= ranks.tp_size
        like = params[0].weight
        self._exp_avg = torch.zeros(len(params), *shape, device=like.device, dtype=like.dtype)
        self._exp_avg_sq = torch.zeros_like(self._exp_avg)
        k = min(rows, columns)
        self._basis = torch.eye(k, device=like.device, dtype=like.dtype).repeat(len(params), 1, 1)
        self._offsets = [_offset(param.name, config) for param in params]
        self._chunks = list(chunk_slices([self._exp_avg[0].nbytes] * len(params), scratch_bytes(like.device)))

    def state(self) -> dict[str, StateTensor]:
        state = {}
        for position, param in enumerate(self._params):
            state[f"{param.name}.rotated_exp_avg"] = StateTensor(self._exp_avg[position], self._moment_dim)
            state[f"{param.name}.rotated_exp_avg_sq"] = StateTensor(self._exp_avg_sq[position], self._moment_dim)
            state[f"{param.name}.basis"] = StateTensor(self._basis[position])
        return state

    def step_in_chunks(self, steps_before: int, lr: float) -> Iterator[Sequence[Param]]:
        config = self._config
        lr = lr * self._rule.lr_multiplier
        correction2 = math.sqrt(1 - config.beta2 ** (steps_before + 1))
        # The kernel computes sqrt(v) / correction2 + eps; the rule has (sqrt(v) + eps) / correction2.
        constants = AdamConstants(config.beta1, config.beta2, config.eps / correction2)
        decay_factor = 1 - lr * self._rule.decay(config.weight_decay)
        for chunk in self._chunks:
            params, basis = self._params[chunk], self._basis[chunk]
            grads = gradients(params)
            grad = torch.stack(grads, out=self._scratch.take("a", (len(params), *grads[0].shape), grads[0]))
            grad = self._shard_as_moments(grad)
            due = [i for i, offset in enumerate(self._offsets[chunk]) if self._is_due(steps_before, offset)]
            if due:
                self._refresh(chunk.start, due, grad)
            rotated = self._rotate(grad, basis, self._scratch.take("b", grad.shape, grad))
            update = grad.zero_()  # the gradient is not needed any more: its memory takes the update
            fused_adamw(
                [update],
                [rotated],
                [self._exp_avg[chunk]],
                [self._exp_avg_sq[chunk]],
                step=steps_before + 1,
                lr=lr * config.scale,
                weight_decay=0.0,
                constants=constants,
            )
            update = self._shard_as_weights(self._rotate(update, basis.mT, rotated))
            weights = [param.weight for param in params]
            if decay_factor != 1 and config.decay_order == "before":
                torch._foreach_mul_(weights, decay_factor)
            torch._foreach_add_(weights, update.unbind())
            if decay_factor != 1 and config.decay_order == "after":
                torch._foreach_mul_(weights, decay_factor)
            yield params

    def _is_due(self, steps_before: int, offset: int) -> bool:
        return steps_before == 0 or (steps_before + offset) % self._config.refresh_interval == 0

    def _refresh(self, start: int, due: list[int], grad: Tensor) -> None:
        """Computes new bases from the updated momentum, and rotates the stored momentum, not yet updated, into them.

        `due`: positions in the chunk, which begins at `start` in the stacks. `grad`: the chunk's gradients.
        """
        b1 = self._config.beta1
        old_basis = self._basis[[start + i for i in due]]
        exp_avg = self._rotate(self._exp_avg[[start + i for i in due]], old_basis.mT)
        updated = (b1 * exp_avg + (1 - b1) * grad[due]).double()
        gram = updated.mT @ updated if self._tall else updated @ updated.mT
        if self._moment_dim is not None:  # each rank has some of the rows (tall) or columns (wide) of the sum
            gram = self._ranks.sum(gram)
        basis = _eigenvectors(gram, self._ranks).to(old_basis.dtype)
        exp_avg = self._rotate(exp_avg, basis)
        change = (old_basis.mT @ basis).square_()  # doubly stochastic: rows and columns sum to 1
        for i, position in enumerate(start + i for i in due):
            self._basis[position] = basis[i]
            self._exp_avg[position] = exp_avg[i]
            if self._config.second_moment == "rotate":
                second = self._exp_avg_sq[position]
                second.copy_(second @ change[i] if self._tall else change[i].mT @ second)

    def _rotate(self, x: Tensor, basis: Tensor, out: Tensor | None = None) -> Tensor:
        """Rotates [b, m, n] into the basis; given the transposed basis, rotates it back."""
        return torch.bmm(x, basis, out=out) if self._tall else torch.bmm(basis.mT, x, out=out)

    def _shard_as_moments(self, x: Tensor) -> Tensor:
        """Reshards a stack from the weights' sharding to the moments'."""
        if self._moment_dim == self._dim:
            return x
        assert self._dim is not None
        if self._moment_dim is None:
            return self._ranks.gather(x, self._dim + 1)
        return self._ranks.reshard(x, have=self._dim + 1, want=self._moment_dim + 1)

    def _shard_as_weights(self, x: Tensor) -> Tensor:
        """Reshards a stack from the moments' sharding to the weights'."""
        if self._moment_dim == self._dim:
            return x
        assert self._dim is not None
        if self._moment_dim is None:
            return x.chunk(self._ranks.tp_size, self._dim + 1)[self._ranks.rank]
        return self._ranks.reshard(x, have=self._moment_dim + 1, want=self._dim + 1)


def _eigenvectors(gram: Tensor, ranks: TensorRanks) -> Tensor:
    """Returns the eigenvectors [b, k, k] (columns, by descending eigenvalue) of symmetric matrices [b, k, k].

    Each matrix is decomposed by one rank and gathered, so all ranks have the same bits.
    """
    per_rank = -(-len(gram) // ranks.tp_size)
    mine = gram[ranks.rank * per_rank : (ranks.rank + 1) * per_rank]
    vectors = torch.zeros(per_rank, *gram.shape[1:], device=gram.device, dtype=gram.dtype)
    if len(mine):
        vectors[: len(mine)] = torch.linalg.eigh(mine).eigenvectors.flip(-1)
    return ranks.gather(vectors, 0)[: len(gram)]


def _offset(name: str, config: CondaConfig) -> int:
    """Returns the step of the interval at which a matrix refreshes, by its global name, so the same in any layout."""
    if not config.stagger:
        return 0
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % config.refresh_interval
