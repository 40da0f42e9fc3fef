"""Conda and Muon as plain loops over matrices, against which lehr's batched optimizers are measured."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from llama60m import fresh, is_matrix

Step = Callable[[], None]


def conda_loop(names: list[str], *, refresh: bool) -> Step:
    """Builds a step of Conda as published: momentum in the original basis, three products, an SVD at a refresh.

    Parameters are updated one after the other. Those that are not matrices of a layer get Adam in the same loop, as in
    the authors' class.
    """
    b1, b2, eps, scale, lr = 0.9, 0.99, 1e-8, 0.25, 1e-3
    states = [(is_matrix(name), w, g, torch.zeros_like(w), torch.zeros_like(w)) for name, w, g in fresh(names)]
    bases = [torch.eye(min(w.shape)) if matrix else torch.empty(0) for matrix, w, _, _, _ in states]
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        for i, (matrix, w, g, m, v) in enumerate(states):
            size = lr * math.sqrt(1 - b2**count) / (1 - b1**count)
            m.mul_(b1).add_(g, alpha=1 - b1)
            if not matrix:
                v.mul_(b2).addcmul_(g, g, value=1 - b2)
                w.addcdiv_(m, v.sqrt().add_(eps), value=-size)
                continue
            tall = w.shape[0] >= w.shape[1]
            if refresh:
                u, _, vh = torch.linalg.svd(m, full_matrices=False)
                bases[i] = vh if tall else u
            basis = bases[i]
            rotated_g = g @ basis.T if tall else basis.T @ g
            rotated_m = m @ basis.T if tall else basis.T @ m
            v.mul_(b2).addcmul_(rotated_g, rotated_g, value=1 - b2)
            n = rotated_m / v.sqrt().add_(eps)
            n = (n @ basis if tall else basis @ n) * scale
            w.add_(n, alpha=-size)

    return step


def conda_as_written(names: list[str]) -> Step:
    """Builds a step of Conda as its formulas are written, in which each result is a new tensor."""
    b1, b2, eps, scale, lr = 0.9, 0.99, 1e-8, 0.25, 1e-3
    states = [[is_matrix(name), w, g, torch.zeros_like(w), torch.zeros_like(w)] for name, w, g in fresh(names)]
    bases = [torch.eye(min(w.shape)) if matrix else torch.empty(0) for matrix, w, _, _, _ in states]
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        for state, basis in zip(states, bases, strict=True):
            matrix, w, g, m, v = state
            tall = w.ndim > 1 and w.shape[0] >= w.shape[1]
            m = b1 * m + (1 - b1) * g
            rotated_g = (g @ basis.T if tall else basis.T @ g) if matrix else g
            rotated_m = (m @ basis.T if tall else basis.T @ m) if matrix else m
            v = b2 * v + (1 - b2) * rotated_g**2
            n = rotated_m / (v.sqrt() + eps)
            n = scale * (n @ basis if tall else basis @ n) if matrix else n
            w = w - lr * math.sqrt(1 - b2**count) / (1 - b1**count) * n
            state[1:] = [w, g, m, v]

    return step


def muon_loop_float32(names: list[str]) -> Step:
    """Builds a step of torch's Muon with the iteration in float32, one matrix after the other."""
    lr, momentum, decay = 1e-3, 0.95, 0.1
    states = [(w, g, torch.zeros_like(w)) for _, w, g in fresh(names)]

    def step() -> None:
        for w, g, buffer in states:
            buffer.lerp_(g, 1 - momentum)
            x = g.lerp(buffer, momentum)
            tall = x.shape[0] > x.shape[1]
            x = x.T if tall else x
            x = x / x.norm().clamp(min=1e-7)
            for _ in range(5):
                gram = x @ x.T
                x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
            w.mul_(1 - lr * decay).add_(x.T if tall else x, alpha=-lr * math.sqrt(max(1, w.shape[0] / w.shape[1])))

    return step
