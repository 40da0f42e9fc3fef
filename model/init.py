"""Draws initial weights: a function of (seed, global name), whatever the layout.

Each full parameter is drawn from a generator of its own, and a rank takes its shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from model.init_schemes import InitConfig
from model.parameter import spec_of


def initialise(
    parameters: Iterable[tuple[str, nn.Parameter]],
    init: InitConfig,
    *,
    num_layers: int,
    seed: int,
    full_shape: Callable[[str, nn.Parameter], tuple[int, ...]] = lambda name, parameter: tuple(parameter.shape),
    take_shard: Callable[[str, nn.Parameter, Tensor], Tensor] = lambda name, parameter, full: full,
) -> None:
    """Fills each (global name, parameter) in place, as its declaration says.

    `full_shape(name, parameter)` is the shape of the full parameter; `take_shard(name, parameter, full)` returns this
    rank's shard of the full fp32 tensor, in the parameter's shape. AssertionError for a parameter without declaration.
    """
    stds = {"normal": init.std, "residual_output": init.residual_output_std(num_layers)}
    for name, parameter in parameters:
        rule = spec_of(parameter, name).init
        full = torch.empty(full_shape(name, parameter))
        if isinstance(rule, str):
            full.normal_(0.0, stds[rule], generator=_generator(seed, name))
        else:
            full.fill_(rule)
        with torch.no_grad():
            parameter.copy_(take_shard(name, parameter, full))


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
