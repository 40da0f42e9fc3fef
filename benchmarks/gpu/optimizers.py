"""The cost of an optimizer step at 410M, and of what Conda and Muon compute in it: eigenvectors and Newton-Schulz."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from gpu.context import Context, Row, read_record
from gpu.models import model_of
from gpu.sizes import Size
from gpu.timing import cost_of, seconds_of
from model.transformer import without_values
from optim.muon import orthogonalise
from optim.optimizer import OPTIMIZERS, Optimizer
from optim.parameters import OneRank, Param

_MATRICES_OF_A_LAYER = 7  # each has a side of hidden_size, the smaller one
_MATRICES = 4  # of which the eigenvectors are timed: they take a large part of a second each


def measure(context: Context) -> Iterator[Row]:
    """Yields the milliseconds of both parts, then those of a step of each optimizer, of Conda between refreshes.

    Conda comes last, since its first step makes a basis for every matrix. With the speed of a size measured before, the
    ratios of whole training steps follow.
    """
    size, device = context.size("410M"), context.device
    parts = list(_parts(size.hidden_size, size.num_layers, device))
    yield from parts
    steps: dict[str, float] = {}
    for name in sorted(OPTIMIZERS.names(), key=lambda name: (name == "conda", name)):
        optimizer = _optimizer(name, size, device)
        optimizer.step(lr=1e-3)
        cost = cost_of(partial(optimizer.step, lr=1e-3))
        steps[name] = cost["ms"]
        yield {"case": f"step of {name}", **cost}
        del optimizer
        if device == "cuda":
            torch.cuda.empty_cache()
    step_ms = _train_step_ms(read_record(context.record), context.origin)
    if step_ms is not None:
        refresh_ms = parts[-1]["ms"] / _MATRICES * _MATRICES_OF_A_LAYER * size.num_layers
        interval = OPTIMIZERS.parse({"name": "conda", "lr": 1e-3}).to_plain()["refresh_interval"]
        yield from train_step_ratios(steps, step_ms=step_ms, refresh_ms=refresh_ms / interval)


def train_step_ratios(steps: Mapping[str, float], *, step_ms: float, refresh_ms: float) -> Iterator[Row]:
    """Yields how long a training step with each optimizer takes, as a multiple of one with AdamW.

    `steps`: the milliseconds of each optimizer's step; `step_ms`: those of a training step with AdamW; `refresh_ms`:
    those of Conda's refreshes, a step.
    """
    for name, ms in steps.items():
        amortised = refresh_ms if name == "conda" else 0.0
        ratio = round((step_ms - steps["adamw"] + ms + amortised) / step_ms, 3)
        yield {"case": f"training step with {name}", "train_step_ratio": ratio}


def _train_step_ms(record: Sequence[Row], origin: Row) -> float | None:
    """Returns the milliseconds of the newest compiled training step at 410M on this machine, None without one."""
    found = [
        1000.0 * row["step_seconds"]
        for row in record
        if row.get("case") == "410M compiled" and "step_seconds" in row and row.items() >= origin.items()
    ]
    return found[-1] if found else None


def _parts(side: int, layers: int, device: str) -> Iterator[Row]:
    square = _normal(torch.Size((layers, side, side)), device)
    for dtype in (torch.bfloat16, torch.float32):
        seconds = seconds_of(partial(orthogonalise, square.to(dtype), 5))
        name = f"Newton-Schulz, 5 iterations of {layers} matrices {side} x {side}, {str(dtype).removeprefix('torch.')}"
        yield {"case": name, "ms": round(1000 * seconds, 2)}
    few = square[:_MATRICES]
    seconds = seconds_of(partial(torch.linalg.eigh, (few @ few.mT).double()), repeats=2)
    yield {"case": f"eigh of {len(few)} matrices {side} x {side}, float64", "ms": round(1000 * seconds, 1)}


def _optimizer(name: str, size: Size, device: str) -> Optimizer:
    settings = {"refresh_interval": 10**6} if name == "conda" else {}
    config = OPTIMIZERS.parse({**OPTIMIZERS[name].examples()[0].to_plain(), **settings})
    model = without_values(model_of(size), seq_length=1)
    params = [
        Param(key, _normal(each.shape, device), tuple(each.shape), grad=_normal(each.shape, device))
        for key, each in model.named_parameters()
    ]
    return config.build(params, OneRank())


def _normal(shape: torch.Size, device: str) -> Tensor:
    return torch.randn(shape, device=device) * 0.02
