"""The contract of a transform: it changes gradients before the optimizer's update, and weights after it.

An engine calls a transform in every step that changes weights, in the order of `optim.transforms`:

    begin_step(step)          once, before any weight of this step changes; collectives are allowed here only
    before_update(params)     for each group of parameters, before the optimizer reads their gradients
    after_update(params)      for each bucket, before its weights are sent to other ranks

Owners send weights while others are still computed, so what needs all parameters at once (a global threshold) is
decided in `begin_step`, from the weights before this step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import Field
from torch import Tensor

from optim.parameters import Param, StateTensor, TensorRanks
from settings import Registry, Settings


@dataclass(frozen=True)
class RunPlan:
    """The length of the run and the full model: what a transform's schedule and its checks are computed from."""

    steps: int
    flops_per_token: float  # of the dense model, forward and backward
    shapes: Mapping[str, Sequence[int]]  # full shapes of all parameters by global name, in the model's order


@dataclass(frozen=True)
class TransformInputs:
    """What a transform is built from, on one rank."""

    params: Sequence[Param]  # those that this rank updates, or flat ranges of them
    moments: Mapping[str, Sequence[Tensor]]  # by parameter name: the optimizer state that has one element per weight
    tensor_ranks: TensorRanks
    sum_over_ranks: Callable[[Tensor], Tensor]  # sums a tensor over all ranks of the run; `Param.counted` goes in once
    plan: RunPlan


class UpdateTransform(ABC):
    """A transform on one rank. `step` counts optimizer steps from 1; skipped steps do not count."""

    @abstractmethod
    def begin_step(self, step: int) -> None:
        """Prepares a step. Every rank calls it; weights are those before the step, on all ranks."""

    @abstractmethod
    def before_update(self, params: Sequence[Param]) -> None:
        """Changes the gradients of these parameters, which are clipped already, in place."""

    @abstractmethod
    def after_update(self, params: Sequence[Param]) -> None:
        """Changes the weights of these parameters in place."""

    @abstractmethod
    def state(self) -> dict[str, StateTensor]:
        """Returns the state by key, "NAME.pruned" and so on, under the rules of `Optimizer.state`."""

    @property
    def zeroed_weights(self) -> int:
        """The weights of the full model that the transform holds at zero, which need no FLOPs."""
        return 0

    def metrics(self) -> dict[str, float]:
        """Returns scalars to log, the same on every rank and under the same keys in every step."""
        return {}


class TransformConfig(Settings):
    """The settings of a transform."""

    bytes_per_weight: ClassVar[int] = 0  # of state, on the rank that updates the weight

    name: str = Field(description="Name of the transform.")

    def check(self, plan: RunPlan, *, tensor: int) -> None:
        """Checks that this config fits the run on `tensor` tensor ranks. Raises UserError."""

    def notes(self, plan: RunPlan) -> list[str]:
        """Returns what a user should know of it when the run starts, a sentence each."""
        return []

    def needs_full_matrices(self) -> str | None:
        """Returns which setting needs full matrices with full gradients, which ZeRO 2 and 3 do not have; else None."""
        return None

    def reads_gradients(self) -> bool:
        """Returns whether `begin_step` reads gradients, so that what it decides depends on their rounding."""
        return False

    def build(self, inputs: TransformInputs) -> UpdateTransform:
        """Builds the transform of this rank's parameters."""
        raise AssertionError(f"{type(self).__name__} has no build")

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Returns configs for runs of a few steps, which every contract test runs."""
        return (cls.model_validate({}),)


TRANSFORMS = Registry("transform", room="optim.transforms", base=TransformConfig)
