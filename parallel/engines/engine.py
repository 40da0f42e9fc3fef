"""The interface between the training loop and an engine: a step, an evaluation, the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from optim.optimizer import OptimizerConfig
from optim.transforms.base import RunPlan
from parallel.chunk import MicroBatch, PipelineChunk
from parallel.engines.slices import Slice
from parallel.mesh import Mesh
from parallel.parameter_shards import ParameterShard


@dataclass(frozen=True)
class EngineInputs:
    """The inputs of every engine's constructor."""

    chunks: Sequence[PipelineChunk]  # this rank's chunks of the model
    shards: Sequence[ParameterShard]  # all their parameters
    mesh: Mesh
    optimizer: OptimizerConfig
    zero: int
    offload: bool  # whether masters and optimizer state are on the host
    dtype: torch.dtype  # of weights in forward and backward; masters and optimizer state are float32
    micro_batches: int  # of one step, on each data rank
    plan: RunPlan


@dataclass(frozen=True)
class StepResult:
    """The result of one optimizer step, the same on every rank."""

    nll: float  # summed over the unmasked tokens of the global batch
    grad_norm: float  # before clipping
    skipped: bool  # loss or gradients were not finite: no weight was changed
    diagnostics: dict[str, float] = field(default_factory=dict)  # the optimizer's and its transforms', by name
    zeroed_weights: int = 0  # of the full model: weights that transforms hold at zero


@dataclass(frozen=True)
class HeldBytes:
    """Bytes on this rank's device that live from step to step."""

    weights: int
    gradients: int
    optimizer: int  # masters, if they are not the weights, and moments

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.gradients + self.optimizer


def held_bytes(
    device: torch.device, *, weights: Iterable[Tensor], gradients: Iterable[Tensor], optimizer: Iterable[Tensor]
) -> HeldBytes:
    """Counts the tensors that are on `device`."""

    def count(tensors: Iterable[Tensor]) -> int:
        return sum(tensor.nbytes for tensor in tensors if tensor.device.type == device.type)

    return HeldBytes(count(weights), count(gradients), count(optimizer))


class Evaluates(Protocol):
    """Anything that can compute a loss."""

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        """Returns the nll, without gradients, summed over the unmasked tokens of all data ranks' micro-batches."""
        ...


class Engine(Evaluates, Protocol):
    """This rank's weights, gradients and optimizer, whatever the layout."""

    def train_step(self, micro_batches: Sequence[MicroBatch], *, lr: float) -> StepResult:
        """Takes one step on the global batch, of which this data rank has these micro-batches.

        If taking a micro-batch raises on all ranks, on the tensor ranks of a data rank the same one, the step is
        dropped: weights and optimizer state are unchanged. `ParallelConfig.can_drop_step` says which layouts allow it.
        """
        ...

    def state(self, *, saving: bool) -> dict[str, Slice]:
        """Returns tensors by their global checkpoint names, to be read (saving) or to be written in place (loading).

        For saving, one data rank and one stage return each tensor in full: a collective of the data ranks. For loading,
        every rank returns what it holds, which may be a part of its shard.
        """
        ...

    def loaded(self, *, optimizer_steps: int) -> None:
        """Makes all copies of the weights agree; it is called once the tensors of `state` have been written."""
        ...

    def replicated_weights(self) -> dict[str, Tensor]:
        """Returns the weights of forward and backward that every data rank holds in full and alike, by name."""
        ...

    def held_bytes(self) -> HeldBytes:
        """Returns the bytes of weights, gradients and optimizer state on this rank's device."""
        ...

    @property
    def optimizer_steps(self) -> int:
        """The number of steps that the optimizer has taken; skipped steps do not count."""
        ...
