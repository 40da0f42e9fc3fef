"""Recomputed activations: gradients are the same bits, `again` runs once, and autograd keeps nothing of the tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from live_memory import LiveMemory
from torch import Tensor

from model.recompute import RecomputeContext, recomputing, saving

SIZE = 64
CANARY = (
    "autograd no longer hands saved-tensor hooks a tensor over the memory of the saved one: "
    "model/recompute.py, which goes by that, keeps what it should drop"
)


class Product(torch.autograd.Function):
    """Saves both inputs by `save_for_backward`, as Megatron's layers do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad @ weight.mT, x.mT @ grad


BODIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a function of its own": lambda x, weight: Product.apply(x, weight),  # type: ignore[no-untyped-call,no-any-return]
    "an operator of torch": lambda x, weight: x @ weight,
    "a view": lambda x, weight: x.view(2, SIZE // 2, SIZE)[1].mT @ weight[: SIZE // 2],
    "twice": lambda x, weight: x @ weight + x.mT @ weight,
}


def passed(body: str, context: RecomputeContext) -> tuple[list[Tensor], int, int]:
    """(gradients, how often x was computed again, bytes that the forward pass keeps)."""
    generator = torch.Generator().manual_seed(1)
    start, weight = (torch.randn(SIZE, SIZE, generator=generator).requires_grad_() for _ in range(2))
    count = 0

    def again() -> Tensor:
        nonlocal count
        count += 1
        return start * 2

    with LiveMemory() as memory:
        x = start * 2
        with context(x, again):
            out = BODIES[body](x, weight)
        del x
    kept = memory.alive() - out.nbytes
    return list(torch.autograd.grad(out.sum(), (start, weight))), count, kept


@pytest.mark.parametrize("body", BODIES)
def test_autograd_lets_saved_tensors_be_found_by_their_memory(body: str) -> None:
    gradients, count, kept = passed(body, recomputing)
    wanted, _, kept_by_autograd = passed(body, saving)
    assert kept_by_autograd == 4 * SIZE * SIZE
    assert (count, kept) == (1, 0), CANARY
    for gradient, other in zip(gradients, wanted, strict=True):
        assert torch.equal(gradient, other)
