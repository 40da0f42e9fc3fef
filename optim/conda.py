"""Conda (arXiv 2509.24218): Adam in a one-sided eigenbasis of the momentum, refreshed every `refresh_interval` steps.

W [m, n], gradient G, momentum M = b1 M + (1-b1) G. Every T steps the singular vectors of the updated M, on its shorter
side: M = U S Vh, and Q = V where m >= n (tall), else Q = U (wide). In between

    G~ = G Q,  M~ = M Q (tall)   or   G~ = Q' G,  M~ = Q' M (wide);   v <- b2 v + (1-b2) G~^2
    W <- W - lr sqrt(1-b2^t)/(1-b1^t) scale back(M~ / (sqrt(v) + eps)),   back(N) = N Q' or Q N;   W <- W - lr wd W

Two identities make it cheap, and change rounding only. While Q stands, M~ obeys the recursion of M, so M~ is what is
stored: two products a step in place of three, and the element-wise part is exactly one fused Adam pass. And Q holds the
eigenvectors of M'M (or MM'), taken in float64, where squaring the singular values costs nothing that fp32 had.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from optim.adamw import Moments, fused_adamw, gradients
from optim.batches import Scratch, grouped, runs, scratch_bytes
from optim.groups import ADAMW_BESIDE_MATRICES, ParamRule, rule_of
from optim.mixed import FallbackAdamWConfig, MatrixConfig
from optim.optimizer import (
    OPTIMIZERS,
    Optimizer,
    Param,
    StateTensor,
    TensorRanks,
)

EIGEN_FLOPS = 60.0  # of one eigh per k^3, in fp32 flop equivalents (measured: 42 ms for k = 512 at 200 GFLOP/s)


@OPTIMIZERS.register
class CondaConfig(MatrixConfig):
    """Conda for matrices: Adam in a basis of the momentum's singular vectors; AdamW for all else.

    The defaults are those of the authors' LLaMA scripts, which use lr 0.01 for all parameters.
    """

    name: Literal["conda"] = "conda"
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay; it is multiplied by the learning rate.")
    table: tuple[ParamRule, ...] = Field(
        ADAMW_BESIDE_MATRICES,
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

    def build_primary(self, params: Sequence[Param], ranks: TensorRanks) -> Conda:
        return Conda(self, params, ranks)

    def matrix_cost(self, shape: Sequence[int]) -> float:
        k = min(shape)
        return 4.0 * math.prod(shape) * k + EIGEN_FLOPS * k**3 / self.refresh_interval


class Conda(Optimizer):
    """Conda on matrices; those of one shape, cut alike and under one rule of the table, go together."""

    def __init__(self, config: CondaConfig, params: Sequence[Param], ranks: TensorRanks) -> None:
        scratch = Scratch()
        self._groups = [
            _Group(config, members, ranks, scratch)
            for members in grouped(params, lambda p: (p.shape, p.dim, p.weight.device, rule_of(config.table, p.name)))
        ]

    @torch.no_grad()
    def updates(self, *, lr: float) -> Iterator[Sequence[Param]]:
        for group in self._groups:
            yield from group.updates(self.step_count, lr)
        self.step_count += 1

    def state(self) -> dict[str, StateTensor]:
        return {key: value for group in self._groups for key, value in group.state().items()}


class _Group:
    """Matrices of one shape, cut alike, with one lr and decay; moments and bases are stacked.

    The rotation is local where the cut dim is not the rotated one; then the moments are cut as the weight is. Otherwise
    gradient and update are resharded to the other dim and the moments live there; where that dim cannot be cut evenly,
    every rank holds them whole.
    """

    def __init__(self, config: CondaConfig, params: list[Param], ranks: TensorRanks, scratch: Scratch) -> None:
        self._config, self._params, self._ranks, self._scratch = config, params, ranks, scratch
        self._rule = rule_of(config.table, params[0].name)
        rows, columns = params[0].shape
        self._tall = rows >= columns  # of the whole matrix: a slice's sides may compare otherwise
        self._dim = params[0].dim
        rotated_dim = 1 if self._tall else 0
        kept_dim = 1 - rotated_dim
        self._home: int | None = self._dim
        if self._dim == rotated_dim:
            self._home = kept_dim if params[0].shape[kept_dim] % ranks.tp_size == 0 else None
        shape = [rows, columns]
        if self._home is not None:
            shape[self._home] //= ranks.tp_size
        like = params[0].weight
        self._exp_avg = torch.zeros(len(params), *shape, device=like.device, dtype=like.dtype)
        self._exp_avg_sq = torch.zeros_like(self._exp_avg)
        k = min(rows, columns)
        self._basis = torch.eye(k, device=like.device, dtype=like.dtype).repeat(len(params), 1, 1)
        self._offsets = [_offset(param.name, config) for param in params]
        self._runs = list(runs([self._exp_avg[0].nbytes] * len(params), scratch_bytes(like.device)))

    def state(self) -> dict[str, StateTensor]:
        state = {}
        for position, param in enumerate(self._params):
            state[f"{param.name}.rotated_exp_avg"] = StateTensor(self._exp_avg[position], self._home)
            state[f"{param.name}.rotated_exp_avg_sq"] = StateTensor(self._exp_avg_sq[position], self._home)
            state[f"{param.name}.basis"] = StateTensor(self._basis[position])
        return state

    def updates(self, steps_before: int, lr: float) -> Iterator[Sequence[Param]]:
        config = self._config
        lr = lr * self._rule.lr_multiplier
        correction2 = math.sqrt(1 - config.beta2 ** (steps_before + 1))
        # The kernel computes sqrt(v)/correction2 + eps where the rule has (sqrt(v) + eps)/correction2.
        moments = Moments(config.beta1, config.beta2, config.eps / correction2)
        keep = 1 - lr * self._rule.decay(config.weight_decay)
        for run in self._runs:
            params, basis = self._params[run], self._basis[run]
            grads = gradients(params)
            grad = torch.stack(grads, out=self._scratch.take("a", (len(params), *grads[0].shape), grads[0]))
            grad = self._to_home(grad)
            due = [i for i, offset in enumerate(self._offsets[run]) if self._is_due(steps_before, offset)]
            if due:
                self._refresh(run.start, due, grad)
            rotated = self._rotate(grad, basis, self._scratch.take("b", grad.shape, grad))
            update = grad.zero_()  # the gradient is spent: its memory takes the update
            fused_adamw(
                [update],
                [rotated],
                [self._exp_avg[run]],
                [self._exp_avg_sq[run]],
                step=steps_before + 1,
                lr=lr * config.scale,
                weight_decay=0.0,
                moments=moments,
            )
            update = self._from_home(self._rotate(update, basis.mT, rotated))
            weights = [param.weight for param in params]
            if keep != 1 and config.decay_order == "before":
                torch._foreach_mul_(weights, keep)
            torch._foreach_add_(weights, update.unbind())
            if keep != 1 and config.decay_order == "after":
                torch._foreach_mul_(weights, keep)
            yield params

    def _is_due(self, steps_before: int, offset: int) -> bool:
        return steps_before == 0 or (steps_before + offset) % self._config.refresh_interval == 0

    def _refresh(self, start: int, due: list[int], grad: Tensor) -> None:
        """New bases from the updated momentum; the stored (not yet updated) momentum is carried over to them."""
        b1 = self._config.beta1
        old_basis = self._basis[[start + i for i in due]]
        exp_avg = self._rotate(self._exp_avg[[start + i for i in due]], old_basis.mT)
        updated = (b1 * exp_avg + (1 - b1) * grad[due]).double()
        gram = updated.mT @ updated if self._tall else updated @ updated.mT
        if self._home is not None:  # each rank has some of the rows (tall) or columns (wide) that the Gram sums over
            gram = self._ranks.sum(gram)
        basis = _eigenvectors(gram, self._ranks).to(old_basis.dtype)
        exp_avg = self._rotate(exp_avg, basis)
        change = (old_basis.mT @ basis).square_()  # columns and rows sum to 1
        for i, position in enumerate(start + i for i in due):
            self._basis[position] = basis[i]
            self._exp_avg[position] = exp_avg[i]
            if self._config.second_moment == "rotate":
                second = self._exp_avg_sq[position]
                second.copy_(second @ change[i] if self._tall else change[i].mT @ second)

    def _rotate(self, x: Tensor, basis: Tensor, out: Tensor | None = None) -> Tensor:
        """Into the basis; with the transposed basis, back."""
        return torch.bmm(x, basis, out=out) if self._tall else torch.bmm(basis.mT, x, out=out)

    def _to_home(self, x: Tensor) -> Tensor:
        """A stack cut as the weights are -> cut as the moments are."""
        if self._home == self._dim:
            return x
        assert self._dim is not None
        if self._home is None:
            return self._ranks.gather(x, self._dim + 1)
        return self._ranks.reshard(x, have=self._dim + 1, want=self._home + 1)

    def _from_home(self, x: Tensor) -> Tensor:
        if self._home == self._dim:
            return x
        assert self._dim is not None
        if self._home is None:
            return x.chunk(self._ranks.tp_size, self._dim + 1)[self._ranks.rank]
        return self._ranks.reshard(x, have=self._home + 1, want=self._dim + 1)


def _eigenvectors(gram: Tensor, ranks: TensorRanks) -> Tensor:
    """Eigenvectors [b, k, k] (columns, by falling eigenvalue) of symmetric [b, k, k]; the same bits on every rank.

    The matrices are dealt out over the ranks: each decomposition is done once, by one rank.
    """
    each = -(-len(gram) // ranks.tp_size)
    mine = gram[ranks.rank * each : (ranks.rank + 1) * each]
    vectors = torch.zeros(each, *gram.shape[1:], device=gram.device, dtype=gram.dtype)
    if len(mine):
        vectors[: len(mine)] = torch.linalg.eigh(mine).eigenvectors.flip(-1)
    return ranks.gather(vectors, 0)[: len(gram)]


def _offset(name: str, config: CondaConfig) -> int:
    """Where in the interval a matrix refreshes: from its global name, so that no layout changes it."""
    if not config.stagger:
        return 0
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % config.refresh_interval
