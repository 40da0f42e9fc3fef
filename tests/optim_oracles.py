"""The update rules of the optimizers, written plainly as oracles: full matrices, one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optim.groups import rule_of
from optim.mixed import MixedOptimizerConfig
from optim.optimizer import OptimizerConfig


@dataclass
class State:
    """The state that a rule has for one weight: moments, a basis, the steps taken, the steps projected."""

    m: Tensor
    v: Tensor
    basis: Tensor
    t: int = 0
    projections: int = 0


class Rule:
    """The update of one weight by one gradient; a call with (weight, gradients, lr) returns the weight after all."""

    def __init__(self, update: Callable[[Tensor, Tensor, State, float], Tensor]) -> None:
        """`update(weight, gradient, state, lr)` returns the new weight; `state.t` is the number of its step, from 1."""
        self._update = update

    def start(self, w: Tensor) -> State:
        return State(torch.zeros_like(w), torch.zeros_like(w), torch.empty(0))

    def step(self, w: Tensor, g: Tensor, state: State, lr: float) -> Tensor:
        state.t += 1
        return self._update(w, g, state, lr)

    def __call__(self, w: Tensor, grads: Iterable[Tensor], lr: float) -> Tensor:
        state = self.start(w)
        for g in grads:
            w = self.step(w, g, state, lr)
        return w


def adam(*, b1: float, b2: float, eps: float, weight_decay: float = 0.0) -> Rule:
    def update(w: Tensor, g: Tensor, s: State, lr: float) -> Tensor:
        s.m = b1 * s.m + (1 - b1) * g
        s.v = b2 * s.v + (1 - b2) * g * g
        w = w - lr * weight_decay * w
        return w - lr * (s.m / (1 - b1**s.t)) / ((s.v / (1 - b2**s.t)).sqrt() + eps)

    return Rule(update)


def conda(
    *, b1: float, b2: float, eps: float, scale: float, interval: int, weight_decay: float, offset: int = 0
) -> Rule:
    """The method as published: the momentum stays in the original basis, and each refresh takes an SVD."""

    def update(w: Tensor, g: Tensor, s: State, lr: float) -> Tensor:
        tall = w.shape[0] >= w.shape[1]
        s.m = b1 * s.m + (1 - b1) * g
        if s.t == 1 or (s.t - 1 + offset) % interval == 0:
            u, _, vh = torch.linalg.svd(s.m, full_matrices=False)
            s.basis = vh if tall else u
        rotated_g = g @ s.basis.T if tall else s.basis.T @ g
        rotated_m = s.m @ s.basis.T if tall else s.basis.T @ s.m
        s.v = b2 * s.v + (1 - b2) * rotated_g**2
        n = rotated_m / (s.v.sqrt() + eps)
        n = scale * (n @ s.basis if tall else s.basis @ n)
        w = w - lr * math.sqrt(1 - b2**s.t) / (1 - b1**s.t) * n
        return w - lr * weight_decay * w

    return Rule(update)


def project(
    w: Tensor, g: Tensor, p: Tensor, *, delta: float, eps: float, view: str = "auto", head_size: int = 1
) -> tuple[Tensor, bool]:
    """Returns (p, whether it was projected). `auto` tests the rows, then the layer; any other view always projects."""
    if w.ndim < 2 or view == "none":
        return p, False
    layouts = {"row": w.shape[0], "head": w.shape[0] // head_size, "layer": 1}
    for name in ("row", "layer") if view == "auto" else (view,):
        vectors = w.reshape(layouts[name], -1)
        cosines = torch.nn.functional.cosine_similarity(g.reshape(vectors.shape), vectors, dim=1, eps=eps).abs()
        if view != "auto" or cosines.max() < delta / math.sqrt(vectors.shape[1]):
            unit = vectors / (vectors.norm(dim=1, keepdim=True) + eps)
            flat = p.reshape(vectors.shape)
            return (flat - unit * (unit * flat).sum(1, keepdim=True)).reshape(w.shape), True
    return p, False


def adamp(
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
    nesterov: bool = False,
    view: str = "auto",
    head_size: int = 1,
) -> Rule:
    def update(w: Tensor, g: Tensor, s: State, lr: float) -> Tensor:
        s.m = b1 * s.m + (1 - b1) * g
        s.v = b2 * s.v + (1 - b2) * g * g
        top = b1 * s.m + (1 - b1) * g if nesterov else s.m
        p = top / (s.v.sqrt() / math.sqrt(1 - b2**s.t) + eps)
        p, projected = project(w, g, p, delta=delta, eps=eps, view=view, head_size=head_size)
        s.projections += projected
        w = w * (1 - lr * weight_decay * (wd_ratio if projected else 1))
        return w - lr / (1 - b1**s.t) * p

    return Rule(update)


def sgdp(
    *,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    eps: float = 1e-8,
    delta: float = 0.1,
    wd_ratio: float = 0.1,
) -> Rule:
    def update(w: Tensor, g: Tensor, s: State, lr: float) -> Tensor:
        s.m = momentum * s.m + (1 - dampening) * g
        p = g + momentum * s.m if nesterov else s.m
        p, projected = project(w, g, p, delta=delta, eps=eps)
        s.projections += projected
        w = w * (1 - lr * weight_decay * (wd_ratio if projected else 1) / (1 - momentum))
        return w - lr * p

    return Rule(update)


def muon(*, momentum: float, nesterov: bool, weight_decay: float, iterations: int = 5) -> Rule:
    def update(w: Tensor, g: Tensor, state: State, lr: float) -> Tensor:
        rows, columns = w.shape
        state.m = momentum * state.m + (1 - momentum) * g
        u = momentum * state.m + (1 - momentum) * g if nesterov else state.m
        u, s, vh = torch.linalg.svd(u, full_matrices=False)
        s = s / s.square().sum().sqrt()
        for _ in range(iterations):  # an odd polynomial of a matrix is one of its singular values
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        w = w * (1 - lr * weight_decay)
        return w - lr * math.sqrt(max(1, rows / columns)) * (u * s) @ vh

    return Rule(update)


# A method without an entry here is compared with its own run on one process instead.
RULES: dict[str, Callable[[Any, float], Rule]] = {
    "adamw": lambda c, decay: adam(b1=c.beta1, b2=c.beta2, eps=c.eps, weight_decay=decay),
    "adamp": lambda c, decay: adamp(
        b1=c.beta1, b2=c.beta2, eps=c.eps, weight_decay=decay, delta=c.delta, wd_ratio=c.wd_ratio, nesterov=c.nesterov
    ),
    "sgdp": lambda c, decay: sgdp(
        momentum=c.momentum, dampening=c.dampening, weight_decay=decay, nesterov=c.nesterov, delta=c.delta,
        wd_ratio=c.wd_ratio,
    ),
    "conda": lambda c, decay: conda(
        b1=c.beta1, b2=c.beta2, eps=c.eps, scale=c.scale, interval=c.refresh_interval, weight_decay=decay
    ),
    "muon": lambda c, decay: muon(
        momentum=c.momentum, nesterov=c.nesterov, weight_decay=decay, iterations=c.iterations
    ),
}  # fmt: skip


def rule_for(config: OptimizerConfig, name: str) -> Rule:
    """Returns the plain rule of one parameter: that of the primary method, or AdamW's if its row says so.

    For configs whose switches are as published and whose rows have no multiplier.
    """
    row = rule_of(config.table, name)
    assert row.lr_multiplier == 1
    decay = row.decay(config.weight_decay)
    if isinstance(config, MixedOptimizerConfig) and row.method == "adamw":
        fallback = config.adamw
        assert fallback.lr is None
        return adam(b1=fallback.beta1, b2=fallback.beta2, eps=fallback.eps, weight_decay=decay)
    return RULES[config.name](config, decay)
