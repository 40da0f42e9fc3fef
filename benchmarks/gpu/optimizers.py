"""The cost of an optimizer step at 410M, and of what Conda and Muon compute in it: eigenvectors and Newton-Schulz."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu.context import Context, Row
from gpu.timing import cost_of, seconds_of
from model.transformer import without_values
from optim.muon import orthogonalise
from optim.optimizer import OPTIMIZERS, OneRank, Param


def measure(context: Context) -> Iterator[Row]:
    """Yields the milliseconds of a step of each optimizer, with Conda's refresh apart, then those of its parts."""
    size = context.size("410M")
    device = context.device
    for name in OPTIMIZERS.names():
        settings = {"refresh_interval": 10**6} if name == "conda" else {}
        config = OPTIMIZERS.parse({**OPTIMIZERS[name].examples()[0].to_plain(), **settings})
        model = without_values(size.model(), seq_length=context.seq_length)
        params = [
            Param(key, _normal(each.shape, device), tuple(each.shape), grad=_normal(each.shape, device))
            for key, each in model.named_parameters()
        ]
        optimizer = config.build(params, OneRank())
        optimizer.step(lr=1e-3)  # Conda's first step makes its bases
        row = cost_of(lambda optimizer=optimizer: optimizer.step(lr=1e-3))  # type: ignore[misc]
        yield {"case": f"step of {name}", **row}
        del optimizer, params
        if device == "cuda":
            torch.cuda.empty_cache()
    side, count = size.hidden_size, size.num_layers
    square = _normal(torch.Size((count, side, side)), device)
    gram = (square @ square.mT).double()
    repeats = 2 if device == "cuda" else 1
    seconds = seconds_of(lambda: torch.linalg.eigh(gram), repeats=repeats)
    yield {"case": f"eigh of {count} matrices {side} x {side}, float64", "ms": round(1000 * seconds, 1)}
    for dtype in (torch.bfloat16, torch.float32):
        stack = square.to(dtype)
        ms = round(1000 * seconds_of(lambda stack=stack: orthogonalise(stack, 5)), 2)  # type: ignore[misc]
        yield {"case": f"Newton-Schulz, 5 iterations of {count} matrices {side} x {side}, {dtype}", "ms": ms}


def _normal(shape: torch.Size, device: str) -> torch.Tensor:
    return torch.randn(shape, device=device) * 0.02
