"""The contract of an optimizer: it updates the parameters that it is built for, as if each were held in full.

An engine in `parallel` chooses the owner rank of each parameter and builds the optimizer for the parameters that its
rank owns. Where tensor parallelism shards a matrix, the optimizer has its shard, the full shape, and collectives over
the ranks that hold the other shards.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Self

from pydantic import Field, field_validator

from optim.groups import DECAY_MATRICES, ParamRule, check_table, rule_of
from optim.parameters import Param, StateTensor, TensorRanks
from optim.transforms.base import TRANSFORMS, TransformConfig
from settings import Registry, Settings


class Optimizer(ABC):
    """An optimizer of a fixed list of parameters. `step_count` is the number of steps taken so far."""

    step_count: int = 0

    @abstractmethod
    def step_in_buckets(self, *, lr: float) -> Iterator[Sequence[Param]]:
        """Takes one step, and yields each bucket of parameters as soon as their weights are updated.

        Each parameter is yielded once. The engine sends a bucket to other ranks while the next is computed. The step
        ends when the iterator does. `lr` is the schedule's value for this step.
        """

    def step(self, *, lr: float) -> None:
        """Takes one step: updates every weight in place from its gradient."""
        for _ in self.step_in_buckets(lr=lr):
            pass

    @abstractmethod
    def state(self) -> dict[str, StateTensor]:
        """Returns the state by key: "NAME.exp_avg" and so on, where NAME is a parameter's. The tensors are no copies.

        Keys and shapes are the same before the first step as after it, so `state()[key].tensor.copy_(...)` loads a
        checkpoint. An optimizer whose state is all zeros and whose `step_count` is 0 behaves like a new one.
        """

    def diagnostics(self) -> dict[str, float]:
        """Returns scalars to log, by "QUANTITY/NAME" with a parameter's NAME: "fire_rate/head.weight".

        The keys are the same before the first step as after it.
        """
        return {}


class OptimizerConfig(Settings):
    """The settings that every optimizer has. `lr` is the peak; the schedule scales it."""

    elementwise: ClassVar[bool] = False  # whether it can update flat shards of parameters (`build_elementwise`)

    name: str = Field(description="Name of the optimizer.")
    lr: float = Field(gt=0, description="Peak learning rate; the schedule scales it.")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled weight decay; it is multiplied by the learning rate.")
    clip_grad_norm: float = Field(
        1.0, ge=0, description="Gradients of a larger global norm are scaled down to it; 0 turns clipping off."
    )
    table: tuple[ParamRule, ...] = Field(
        DECAY_MATRICES, description="How parameters are updated, by name; the first row whose pattern matches counts."
    )
    transforms: tuple[Annotated[TransformConfig, TRANSFORMS.field], ...] = Field(
        (),
        description="What is done to gradients before and to weights after each update, in this order; for example "
        "[{name: sparsity, target: 0.5}].",
    )

    @field_validator("transforms")
    @classmethod
    def _has_each_once(cls, transforms: tuple[TransformConfig, ...]) -> tuple[TransformConfig, ...]:
        names = [transform.name for transform in transforms]
        if len(set(names)) < len(names):
            raise ValueError(f"has a transform twice: {', '.join(names)}")
        return transforms

    def needs_full_matrices(self) -> str | None:
        """Returns the setting that flat parts of parameters (ZeRO 2 and 3) do not suit, or None if none does."""
        if not self.elementwise:
            return f"optim.name = {self.name}"
        needs = ((each.name, each.needs_full_matrices()) for each in self.transforms)
        return next((f"optim.transforms ({name}), {setting}," for name, setting in needs if setting), None)

    def build(self, params: Sequence[Param], ranks: TensorRanks) -> Optimizer:
        """Builds the optimizer of this rank's parameters."""
        raise AssertionError(f"{type(self).__name__} has no build")

    def build_elementwise(self, params: Sequence[Param], rules: Sequence[ParamRule]) -> Optimizer:
        """Builds the optimizer of flat shards (ZeRO 2 and 3), each under its rule; for `elementwise` configs only."""
        raise AssertionError(f"{type(self).__name__} needs full matrices")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Returns configs for runs of a few steps of a small model; every contract test runs them.

        The first is the one that is trained in every layout; the others are its switches, which only quick tests run.
        An interval should be short enough to end within a few steps.
        """
        return (cls.model_validate({"lr": 2e-3}),)

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Checks that this config fits a model, before processes start. `shapes`: full shapes by global name.

        Raises UserError for a parameter without a row in the table, for a row that decides no parameter, and for a
        shape that the method cannot update.
        """
        check_table(self.table, shapes)

    def cost(self, shape: Sequence[int], name: str | None = None) -> float:
        """Returns the modelled cost of one step for a full parameter, in flop equivalents; it balances owner ranks.

        `name` finds the parameter's row in the table; without a name the primary method is meant. One element of a
        fused element-wise update costs ELEMENT_COST.
        """
        return ELEMENT_COST * math.prod(shape)

    def is_primary(self, name: str | None) -> bool:
        """Returns whether the primary method, and not the fallback AdamW, updates the parameter."""
        return name is None or rule_of(self.table, name).method == "own"


OPTIMIZERS = Registry("optimizer", room="optim", base=OptimizerConfig)

ELEMENT_COST = 120.0
"""A fused Adam pass moves 28 bytes an element: at 45 GB/s and 200 GFLOP/s (measured on 2 cores) that is 120 flops."""
