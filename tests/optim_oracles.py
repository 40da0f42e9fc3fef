"""The optimizers' rules written plainly: whole matrices, one at a time, nothing stored in a clever form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from optim.adamp import AdamPConfig
from optim.adamw import AdamWConfig
from optim.conda import CondaConfig
from optim.groups import rule_of
from optim.mixed import MixedOptimizerConfig
from optim.muon import MuonConfig
from optim.optimizer import OptimizerConfig
from optim.sgdp import SGDPConfig


@dataclass
class State:
    """What a rule keeps of one weight: first and second moment, a basis, steps taken, steps projected."""

    m: Tensor
    v: Tensor
    basis: Tensor
    t: int = 0
    fired: int = 0


class Rule:
    """How one gradient changes one weight. Called with (weight, gradients, lr): the weight after all of them."""

    def __init__(self, update: Callable[[Tensor, Tensor, State, float], Tensor]) -> None:
        """`update(weight, gradient, state, lr)` returns the new weight; `state.t` counts its step already."""
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
    """The six steps of the method, with the momentum kept in the original basis and an SVD at each refresh."""

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
    """(the projected p, whether it was): `auto` looks for rows, then for the layer; any other view is taken."""
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
        p, fired = project(w, g, p, delta=delta, eps=eps, view=view, head_size=head_size)
        s.fired += fired
        w = w * (1 - lr * weight_decay * (wd_ratio if fired else 1))
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
        p, fired = project(w, g, p, delta=delta, eps=eps)
        s.fired += fired
        w = w * (1 - lr * weight_decay * (wd_ratio if fired else 1) / (1 - momentum))
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


def rule_for(config: OptimizerConfig, name: str) -> Rule:
    """The plain rule of one parameter under a config: the optimizer's own, or AdamW's where its row says so.

    For configs whose switches are as published and whose rows have no multiplier.
    """
    row = rule_of(config.table, name)
    assert row.lr_multiplier == 1
    decay = row.decay(config.weight_decay)
    if isinstance(config, MixedOptimizerConfig) and row.method == "adamw":
        beside = config.adamw
        assert beside.lr is None
        return adam(b1=beside.beta1, b2=beside.beta2, eps=beside.eps, weight_decay=decay)
    match config:
        case AdamWConfig():
            return adam(b1=config.beta1, b2=config.beta2, eps=config.eps, weight_decay=decay)
        case AdamPConfig():
            return adamp(
                b1=config.beta1, b2=config.beta2, eps=config.eps, weight_decay=decay, delta=config.delta,
                wd_ratio=config.wd_ratio, nesterov=config.nesterov,
            )  # fmt: skip
        case SGDPConfig():
            return sgdp(
                momentum=config.momentum, dampening=config.dampening, weight_decay=decay, nesterov=config.nesterov,
                delta=config.delta, wd_ratio=config.wd_ratio,
            )  # fmt: skip
        case CondaConfig():
            return conda(
                b1=config.beta1, b2=config.beta2, eps=config.eps, scale=config.scale, interval=config.refresh_interval,
                weight_decay=decay,
            )  # fmt: skip
        case MuonConfig():
            return muon(
                momentum=config.momentum, nesterov=config.nesterov, weight_decay=decay, iterations=config.iterations
            )
    raise AssertionError(f"no plain rule for {config.name}")
