"""Declarations of parameters: what code outside of a module must know about them, said where each one is made.

    self.weight = declare(torch.empty(size), ParamSpec(init=1.0))

`Layers` declares its own. The transformer refuses a parameter without a declaration, so that nothing has to be guessed
from names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

Init = float | Literal["normal", "residual_output"]
Gradient = Literal["replicated", "partial_along_sequence", "partial"]

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class ParamSpec:
    """One parameter: its initial values, its shards over the tensor ranks, its gradient, its form in an export."""

    # A constant; or N(0, std²), with `InitConfig.std`, or with `InitConfig.residual_output_std` for the matrices whose
    # output is added to the residual stream.
    init: Init
    # The dim that is sharded over the tensor ranks. None: each tensor rank holds the full parameter.
    shard_dim: int | None = None
    # How a full parameter's gradients on the tensor ranks add up. `replicated`: each rank has the full gradient.
    # `partial`: each rank's is a part of the sum, since it applies the parameter to its own heads or features only.
    # `partial_along_sequence`: the same, but only under sequence parallelism, where a rank sees its part of the tokens.
    gradient: Gradient = "partial_along_sequence"
    # The constant that the forward pass multiplies the parameter by, and that an export folds into it.
    scale: float = 1.0


def declare(values: Tensor, spec: ParamSpec) -> nn.Parameter:
    """Makes a parameter of `values` (this rank's shard), or takes the one that it is, and attaches its declaration."""
    parameter = values if isinstance(values, nn.Parameter) else nn.Parameter(values)
    parameter.spec = spec  # type: ignore[attr-defined]
    return parameter


def spec_of(parameter: nn.Parameter, name: str) -> ParamSpec:
    """Returns what was declared. AssertionError with the name if nothing was."""
    spec = getattr(parameter, "spec", None)
    assert isinstance(spec, ParamSpec), (
        f"the parameter {name} has no declaration: make it with Layers, or with model.parameter.declare"
    )
    return spec


def allocate(parameter: nn.Parameter, memory: Tensor) -> None:
    """Gives a parameter that was built on the meta device its memory: a tensor of its shape, whose values it takes."""
    assert parameter.is_meta
    assert memory.shape == parameter.shape
    allocated = nn.Parameter(memory, requires_grad=parameter.requires_grad)
    allocated.__dict__.update(parameter.__dict__)
    torch.utils.swap_tensors(parameter, allocated)  # `parameter` stays the object that its module holds


def specs_of(module: nn.Module) -> dict[str, ParamSpec]:
    """Returns the declaration of every parameter, by name. AssertionError names one that has none."""
    return {name: spec_of(parameter, name) for name, parameter in module.named_parameters()}


def applied_to_shards(module: M) -> M:
    """Declares that each tensor rank applies the module to its own heads or features: gradients are partial sums."""
    for name, parameter in module.named_parameters():
        declare(parameter, replace(spec_of(parameter, name), gradient="partial"))
    return module
