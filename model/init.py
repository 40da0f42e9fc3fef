"""Initial weights: a function of (seed, global name), whatever the layout.

Each parameter is drawn whole from a generator of its own, and a rank takes its slice.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from settings import Registry, Settings


class InitConfig(Settings):
    """What every initialisation has: the standard deviation of each matrix."""

    name: str = Field(description="Name of the initialisation.")
    std: float = Field(0.02, gt=0, description="Standard deviation of the initial matrices.")

    def branch_std(self, num_layers: int) -> float:
        """Of the matrices that write into the residual stream: attention.out and mlp.down."""
        return self.std


INITS = Registry("init", room="model", base=InitConfig)


@INITS.register
class NormalConfig(InitConfig):
    """Every matrix is drawn from N(0, std²)."""

    name: Literal["normal"] = "normal"


@INITS.register
class ScaledConfig(InitConfig):
    """As normal, but with std / sqrt(2 · num_layers) for attention.out and mlp.down (GPT-2)."""

    name: Literal["scaled"] = "scaled"

    def branch_std(self, num_layers: int) -> float:
        return self.std / math.sqrt(2 * num_layers)


def rules(init: InitConfig, num_layers: int) -> dict[str, float | Literal["ones", "zeros"]]:
    """Name pattern -> standard deviation, or a constant. The first that matches holds."""
    return {
        "*_norm.weight": "ones",
        "*.bias": "zeros",
        "layers.*.attention.out.weight": init.branch_std(num_layers),
        "layers.*.mlp.down.weight": init.branch_std(num_layers),
        "*.weight": init.std,
    }


def initialise(
    parameters: Iterable[tuple[str, nn.Parameter]],
    init: InitConfig,
    *,
    num_layers: int,
    seed: int,
    take_slice: Callable[[str, nn.Parameter, Tensor], Tensor] = lambda name, parameter, whole: whole,
    full_shape: Callable[[str, nn.Parameter], tuple[int, ...]] = lambda name, parameter: tuple(parameter.shape),
) -> None:
    """Fill each (global name, parameter) in place.

    `full_shape(name, parameter)` is the parameter's shape when it is not cut; `take_slice(name, parameter, whole)`
    gives this rank's part of the whole fp32 tensor, of the parameter's shape. A name that no rule covers is our own
    bug: AssertionError.
    """
    table = rules(init, num_layers)
    for name, parameter in parameters:
        rule = next((value for pattern, value in table.items() if fnmatch.fnmatchcase(name, pattern)), None)
        assert rule is not None, f"no initial value is defined for the parameter {name}"
        shape = full_shape(name, parameter)
        if rule == "ones" or rule == "zeros":
            whole = torch.full(shape, 1.0 if rule == "ones" else 0.0)
        else:
            whole = torch.empty(shape).normal_(0.0, rule, generator=_generator(seed, name))
        with torch.no_grad():
            parameter.copy_(take_slice(name, parameter, whole))


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
