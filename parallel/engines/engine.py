"""What the training loop drives: a step, an evaluation, the tensors of a checkpoint. Two engines fulfil it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from parallel.chunk import MicroBatch


@dataclass(frozen=True)
class StepResult:
    """Of one optimizer step, the same on every rank."""

    nll: float  # summed over the unmasked tokens of the global batch
    grad_norm: float  # before clipping
    skipped: bool  # not finite: no weight was changed
    diagnostics: dict[str, float] = field(default_factory=dict)  # the optimizer's, of all parameters


@dataclass(frozen=True)
class Slice:
    """This rank's part of a tensor of the checkpoint: cut along `dim` over the tensor axis, or whole."""

    tensor: Tensor
    dim: int | None

    def full_shape(self, tp_size: int) -> tuple[int, ...]:
        """Of the tensor that `ways` tensor ranks hold together."""
        shape = list(self.tensor.shape)
        if self.dim is not None:
            shape[self.dim] *= tp_size
        return tuple(shape)

    def offsets(self, rank: int) -> tuple[int, ...]:
        """Where the part of the tensor rank `rank` begins in the whole tensor."""
        return tuple(rank * size if dim == self.dim else 0 for dim, size in enumerate(self.tensor.shape))


class Evaluates(Protocol):
    """Weights that a loss can be had of."""

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        """Summed nll of the unmasked tokens of all data ranks' micro-batches, without a gradient."""
        ...


class Engine(Evaluates, Protocol):
    """Weights, gradients and optimizer of this rank, whatever the layout."""

    def train_step(self, micro_batches: Sequence[MicroBatch], *, lr: float) -> StepResult:
        """One step over this data rank's micro-batches of the global batch."""
        ...

    def state(self, *, saving: bool) -> dict[str, Slice]:
        """Tensors by their global checkpoint names, to be read (saving) or written in place (loading).

        When saving, each value is given by one data rank and stage only; when loading, by every rank that needs it.
        """
        ...

    def loaded(self, *, optimizer_steps: int) -> None:
        """To be called once the tensors of `state` have been written: makes all copies of the weights agree."""
        ...

    @property
    def optimizer_steps(self) -> int:
        """Steps the optimizer has taken (skipped ones do not count)."""
        ...
