"""Draws initial weights: a function of (seed, global name), whatever the layout.

Each full parameter is drawn from a generator of its own, so it is the same whichever rank or thread draws it, and in
whatever order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.init_schemes import InitConfig
from model.parameter import ParamSpec, spec_of


@dataclass(frozen=True)
class Wanted:
    """A parameter to be drawn, in full, and what is done with its values."""

    name: str  # global
    spec: ParamSpec
    shape: tuple[int, ...]  # of the full parameter
    take: Callable[[Tensor], object]  # called in a thread, with float32 values on the CPU


def initialise(parameters: Iterable[tuple[str, nn.Parameter]], init: InitConfig, *, num_layers: int, seed: int) -> None:
    """Fills each full (global name, parameter) in place. AssertionError for a parameter without declaration."""
    wanted = [Wanted(name, spec_of(p, name), tuple(p.shape), p.data.copy_) for name, p in parameters]
    draw(wanted, init, num_layers=num_layers, seed=seed)


def draw(wanted: Iterable[Wanted], init: InitConfig, *, num_layers: int, seed: int, threads: int | None = None) -> None:
    """Draws each parameter as its declaration says, and calls its `take` with the values.

    `threads` draw at a time, each one parameter; as many as torch computes with, unless given. The largest parameters
    come first, so that the threads end at about the same time.
    """
    stds = {"normal": init.std, "residual_output": init.residual_output_std(num_layers)}

    def draw_one(parameter: Wanted) -> None:
        rule = parameter.spec.init
        full = torch.empty(parameter.shape)
        if isinstance(rule, str):
            full.normal_(0.0, stds[rule], generator=_generator(seed, parameter.name))
        else:
            full.fill_(rule)
        parameter.take(full)

    largest_first = sorted(wanted, key=lambda parameter: -math.prod(parameter.shape))
    with ThreadPoolExecutor(threads or torch.get_num_threads(), "initial-weights") as pool:
        for _ in pool.map(draw_one, largest_first):
            pass


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
