"""All that a resume needs besides tensors: a few numbers, kept as JSON in each checkpoint."""

from __future__ import annotations

import math

from pydantic import Field

from settings import Settings


class TrainState(Settings):
    """Where a run stands after `step` steps. The order of data follows from `step` and `left_out` alone."""

    step: int = Field(0, ge=0)
    tokens: int = Field(0, ge=0, description="unmasked tokens trained on, over all data ranks")
    optimizer_steps: int = Field(0, ge=0, description="steps that changed weights")
    skipped_steps: int = Field(0, ge=0, description="steps without a finite gradient")
    skipped_in_a_row: int = Field(0, ge=0)
    evaluated_step: int = Field(0, ge=0, description="after which step the held-out loss was last known")
    left_out: tuple[tuple[int, int], ...] = Field(
        (), description="first and last number of batches that a rollback skips: in order, apart from each other"
    )
    rollbacks: int = Field(0, ge=0)
    recent_losses: tuple[float, ...] = Field((), description="what a loss spike is measured against; else empty")
    held_out_loss: float | None = Field(None, description="nats a token, where an evaluation fell on this very step")

    @property
    def batch(self) -> int:
        """The number of the batch that the next step takes: of those that are not left out, number `step`."""
        number = self.step
        for first, last in self.left_out:
            if number >= first:
                number += last - first + 1
        return number

    def evaluated(self, held_out_loss: float) -> TrainState:
        """The same state, its held-out loss known; the next step's has none."""
        loss = held_out_loss if math.isfinite(held_out_loss) else None
        return self.model_copy(update={"evaluated_step": self.step, "held_out_loss": loss})


def without(left_out: tuple[tuple[int, int], ...], first: int, last: int) -> tuple[tuple[int, int], ...]:
    """`left_out` with batches `first` to `last` added: ranges in order, those that touch made one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted([*left_out, (first, last)]):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return tuple(merged)
