"""Run by test_triton_loss.py with TRITON_INTERPRET=1: Triton's cross-entropy against full logits in float64.

    TRITON_INTERPRET=1 python tests/model/interpreted_loss.py

Prints the largest errors of each case as shares of the norm: of the loss and the nll, and of the gradients. Triton
reads the variable once, when it is imported, so this is a process of its own.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from model.cross_entropy import cross_entropy
from model.layers import TorchLayers
from model.loss_kernels import loss_kernel_by

TOKENS, HIDDEN, COLUMNS, CHUNK = 4, 16, 4200, 3  # of each rank: a block of 4,096 and a part of one


class RepeatedRank(TorchLayers):
    """A rank that takes turns with others in one process: each runs again until it has the others' sums and maxima."""

    def __init__(self, rank: int, tp_size: int, seen: dict[int, list[Tensor]]) -> None:
        self.rank, self.tp_size, self._seen = rank, tp_size, seen
        self.number = 0  # of the collectives of this turn

    def _gathered(self, x: Tensor) -> Tensor:
        slots = self._seen.setdefault(self.number, [x] * self.tp_size)
        slots[self.rank] = x.detach().clone()
        self.number += 1
        return torch.stack(slots)

    def sum(self, x: Tensor) -> Tensor:
        return self._gathered(x).sum(0)

    def max(self, x: Tensor) -> Tensor:
        return self._gathered(x).amax(0)


def errors(dtype: torch.dtype, tp_size: int, z_loss: float) -> tuple[float, float]:
    """Returns the errors of the sums and of the gradients."""
    generator = torch.Generator().manual_seed(5)
    x_ND, head_VD = (torch.randn(rows, HIDDEN, generator=generator).to(dtype) for rows in (TOKENS, COLUMNS * tp_size))
    weights_N = torch.rand(TOKENS, generator=generator) * (torch.arange(TOKENS) != 2)
    targets_N = torch.randint(0, len(head_VD), (TOKENS,), generator=generator)
    wanted = _by_full_logits(x_ND, head_VD, targets_N, weights_N, z_loss)
    targets_N[2] = -100  # a masked label

    ranks: list[tuple[Tensor, ...]] = []
    seen: dict[int, list[Tensor]] = {}
    for _ in range(1 if tp_size == 1 else 1 + 2 * -(-TOKENS // CHUNK)):  # each turn makes one more collective right
        ranks = []
        for rank in range(tp_size):
            mine, part = x_ND.clone().requires_grad_(), head_VD.chunk(tp_size)[rank].clone().requires_grad_()
            total, nll = cross_entropy(
                *(mine, part, targets_N, weights_N, RepeatedRank(rank, tp_size, seen)),
                z_loss=z_loss,
                chunk_tokens=CHUNK,
                kernel=loss_kernel_by("triton"),
            )
            ranks.append((total.detach(), nll, *torch.autograd.grad(total, (mine, part))))
    grad_x = sum(rank[2].double() for rank in ranks)
    found = (ranks[-1][0], ranks[-1][1], grad_x, torch.cat([rank[3] for rank in ranks]))
    shares = [float((got.double() - right).norm() / right.norm()) for got, right in zip(found, wanted, strict=True)]
    return max(shares[:2]), max(shares[2:])


def _by_full_logits(
    x_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor, z_loss: float
) -> tuple[Tensor, ...]:
    x, head = (each.double().requires_grad_() for each in (x_ND, head_VD))
    logits = x @ head.T
    nll = nn.functional.cross_entropy(logits, targets_N, reduction="none")
    total = (weights_N * (nll + z_loss * logits.logsumexp(1).square())).sum()
    return total.detach(), nll[weights_N > 0].sum().detach(), *torch.autograd.grad(total, (x, head))


CASES = (
    (torch.float64, 1, 1e-2),
    (torch.float64, 2, 0.0),
    (torch.float64, 2, 1e-2),
    (torch.float32, 1, 1e-2),
    (torch.bfloat16, 1, 1e-2),
)

if __name__ == "__main__":
    print(json.dumps([[str(case[0]).removeprefix("torch."), case[1], *errors(*case)] for case in CASES]))
