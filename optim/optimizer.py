"""The contract of an optimizer: it updates the parameters it is given, whole matrices even where ranks hold slices.

The engine in `parallel` decides who owns which parameter and hands an optimizer only what its rank owns.
Where tensor parallelism cuts a matrix, the optimizer sees its slice, the whole shape, and the ranks that hold the rest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from pydantic import Field
from torch import Tensor

from optim.groups import DECAY_MATRICES, ParamRule, check_table, rule_of
from settings import Registry, Settings


class TensorRanks(Protocol):
    """The tensor-parallel ranks that hold the slices of one matrix. Every rank calls these in the same order."""

    tp_size: int
    rank: int

    def sum(self, x: Tensor) -> Tensor:
        """The element-wise sum over the ranks (x itself may be overwritten)."""
        ...

    def gather(self, x: Tensor, dim: int) -> Tensor:
        """The whole tensor from slices along `dim`, on every rank."""
        ...

    def reshard(self, x: Tensor, *, have: int, want: int) -> Tensor:
        """From slices along dim `have` to slices along dim `want` (an all-to-all)."""
        ...


class OneRank:
    """No tensor parallelism: every matrix is whole."""

    tp_size = 1
    rank = 0

    def sum(self, x: Tensor) -> Tensor:
        return x

    def gather(self, x: Tensor, dim: int) -> Tensor:
        return x

    def reshard(self, x: Tensor, *, have: int, want: int) -> Tensor:
        return x


@dataclass
class Param:
    """One parameter as this rank holds it, in fp32: `weight` is updated in place; `grad` is set before each step."""

    name: str  # global: layers.3.attention.q.weight
    weight: Tensor
    shape: tuple[int, ...]  # of the whole parameter
    dim: int | None = None  # the dim cut over the tensor ranks; None: held whole by each
    grad: Tensor | None = field(default=None, repr=False)


@dataclass
class StateTensor:
    """One tensor of optimizer state: `dim` as in Param (the dim cut over the tensor ranks, or None)."""

    tensor: Tensor
    dim: int | None = None


class Optimizer(ABC):
    """Made for a fixed list of parameters; `step_count` steps have been taken."""

    step_count: int = 0

    @abstractmethod
    def updates(self, *, lr: float) -> Iterator[Sequence[Param]]:
        """Update every parameter's weight from its grad, in place, yielding those that are done, each of them once.

        What is done can be sent to other ranks while the rest is computed. The step is over when the iterator is.
        `lr` is the schedule's value for this step.
        """

    def step(self, *, lr: float) -> None:
        """All updates of one step."""
        for _ in self.updates(lr=lr):
            pass

    @abstractmethod
    def state(self) -> dict[str, StateTensor]:
        """All state as tensors that alias the optimizer's own: "NAME.exp_avg" and so on, NAME a parameter's.

        The keys and shapes are the same before the first step as after it: loading is `state()[key].tensor.copy_(...)`.
        Zeros in all of them, and a `step_count` of 0, are a fresh start.
        """

    def diagnostics(self) -> dict[str, float]:
        """Scalars of the last step worth logging, by `WHAT/NAME` of a parameter: a fire rate, say.

        The keys are the same before the first step as after it.
        """
        return {}


class OptimizerConfig(Settings):
    """What every optimizer has. `lr` is the peak; the schedule scales it."""

    elementwise: ClassVar[bool] = False  # whether flat parts of parameters are enough (`build_flat`)

    name: str = Field(description="Name of the optimizer.")
    lr: float = Field(gt=0, description="Peak learning rate; the schedule scales it.")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled weight decay; it is multiplied by the learning rate.")
    clip_grad_norm: float = Field(
        1.0, ge=0, description="Gradients of a larger global norm are scaled down to it; 0 turns clipping off."
    )
    table: tuple[ParamRule, ...] = Field(
        DECAY_MATRICES, description="How parameters are updated, by name; the first row whose pattern matches counts."
    )

    def build(self, params: Sequence[Param], ranks: TensorRanks) -> Optimizer:
        """The optimizer for this rank's parameters."""
        raise AssertionError(f"{type(self).__name__} has no build")

    def build_flat(self, params: Sequence[Param], rules: Sequence[ParamRule]) -> Optimizer:
        """The optimizer for flat parts of parameters (ZeRO 2, 3), each of one rule; element-wise optimizers only."""
        raise AssertionError(f"{type(self).__name__} needs whole matrices")

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Whether this config fits a model, given all its global names and whole shapes; before processes start.

        Raises UserError: a parameter without a row in the table, a row that decides nothing, a shape that does not fit.
        """
        check_table(self.table, shapes)

    def cost(self, shape: Sequence[int], name: str | None = None) -> float:
        """Modelled work of one step for a whole parameter, in flop equivalents: what balances owners.

        `name` finds its row in the table; without one, the optimizer's own rule is meant. An element of a fused
        element-wise update counts ELEMENT_COST.
        """
        return ELEMENT_COST * math.prod(shape)

    def own(self, name: str | None) -> bool:
        """Whether the parameter takes the optimizer's own rule (not AdamW beside it)."""
        return name is None or rule_of(self.table, name).method == "own"


OPTIMIZERS = Registry("optimizer", room="optim", base=OptimizerConfig)

ELEMENT_COST = 120.0
"""A fused Adam pass moves 28 bytes an element: at 45 GB/s and 200 GFLOP/s (2 cores, measured) that is 120 flops."""
