"""The optimizers' rules written plainly: whole matrices, one at a time, nothing stored in a clever form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Rule = Callable[[Tensor, Iterable[Tensor], float], Tensor]  # (weight, gradients, lr) -> the weight after all of them


def adam(*, b1: float, b2: float, eps: float, weight_decay: float = 0.0) -> Rule:
    def run(w: Tensor, grads: Iterable[Tensor], lr: float) -> Tensor:
        w, m, v = w.clone(), torch.zeros_like(w), torch.zeros_like(w)
        for t, g in enumerate(grads, start=1):
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g * g
            w = w - lr * weight_decay * w
            w = w - lr * (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)
        return w

    return run


def conda(
    *, b1: float, b2: float, eps: float, scale: float, interval: int, weight_decay: float, offset: int = 0
) -> Rule:
    """The six steps of the method, with the momentum kept in the original basis and an SVD at each refresh."""

    def run(w: Tensor, grads: Iterable[Tensor], lr: float) -> Tensor:
        w, m, v = w.clone(), torch.zeros_like(w), torch.zeros_like(w)
        tall = w.shape[0] >= w.shape[1]
        basis = torch.empty(0)
        for t, g in enumerate(grads):
            m = b1 * m + (1 - b1) * g
            if t == 0 or (t + offset) % interval == 0:
                u, _, vh = torch.linalg.svd(m, full_matrices=False)
                basis = vh if tall else u
            rotated_g = g @ basis.T if tall else basis.T @ g
            rotated_m = m @ basis.T if tall else basis.T @ m
            v = b2 * v + (1 - b2) * rotated_g**2
            n = rotated_m / (v.sqrt() + eps)
            n = scale * (n @ basis if tall else basis @ n)
            w = w - lr * math.sqrt(1 - b2 ** (t + 1)) / (1 - b1 ** (t + 1)) * n
            w = w - lr * weight_decay * w
        return w

    return run


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
    def run(w: Tensor, grads: Iterable[Tensor], lr: float) -> Tensor:
        w, m, v = w.clone(), torch.zeros_like(w), torch.zeros_like(w)
        for t, g in enumerate(grads, start=1):
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g * g
            top = b1 * m + (1 - b1) * g if nesterov else m
            p = top / (v.sqrt() / math.sqrt(1 - b2**t) + eps)
            p, fired = project(w, g, p, delta=delta, eps=eps, view=view, head_size=head_size)
            w = w * (1 - lr * weight_decay * (wd_ratio if fired else 1))
            w = w - lr / (1 - b1**t) * p
        return w

    return run


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
    def run(w: Tensor, grads: Iterable[Tensor], lr: float) -> Tensor:
        w, buffer = w.clone(), torch.zeros_like(w)
        for g in grads:
            buffer = momentum * buffer + (1 - dampening) * g
            p = g + momentum * buffer if nesterov else buffer
            p, fired = project(w, g, p, delta=delta, eps=eps)
            w = w * (1 - lr * weight_decay * (wd_ratio if fired else 1) / (1 - momentum))
            w = w - lr * p
        return w

    return run


def muon(*, momentum: float, nesterov: bool, weight_decay: float, iterations: int = 5) -> Rule:
    def run(w: Tensor, grads: Iterable[Tensor], lr: float) -> Tensor:
        w, buffer = w.clone(), torch.zeros_like(w)
        rows, columns = w.shape
        for g in grads:
            buffer = momentum * buffer + (1 - momentum) * g
            u = momentum * buffer + (1 - momentum) * g if nesterov else buffer
            u, s, vh = torch.linalg.svd(u, full_matrices=False)
            s = s / s.square().sum().sqrt()
            for _ in range(iterations):  # an odd polynomial of a matrix is one of its singular values
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            w = w * (1 - lr * weight_decay)
            w = w - lr * math.sqrt(max(1, rows / columns)) * (u * s) @ vh
        return w

    return run
