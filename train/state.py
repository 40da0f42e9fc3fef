"""All that a resume needs besides tensors: a few numbers, stored as JSON in each checkpoint."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from settings import Settings
from train.held_out_loss import are_comparable, are_comparable_of_source

BatchRanges = tuple[tuple[int, int], ...]  # first and last batch number of each: in order, not touching


class TrainState(Settings):
    """Where a run stands after `step` steps. The order of data follows from `step` and `left_out` alone."""

    step: int = Field(0, ge=0)
    tokens: int = Field(0, ge=0, description="unmasked tokens trained on, over all data ranks")
    optimizer_steps: int = Field(0, ge=0, description="steps that changed weights")
    skipped_steps: int = Field(0, ge=0, description="steps without a finite gradient")
    skipped_in_a_row: int = Field(0, ge=0)
    zeroed_weight_steps: int = Field(0, ge=0, description="weights that transforms held at zero, summed over the steps")
    evaluated_step: int = Field(0, ge=0, description="the last step after which the held-out loss was evaluated")
    # Batches are left out, steps are skipped: the name keeps the two apart, and is the key in state.json.
    left_out: BatchRanges = Field(
        (), description="ranges of batch numbers that rollbacks excluded: first and last of each, in order, disjoint"
    )
    rollbacks: int = Field(0, ge=0)
    recent_losses: tuple[float, ...] = Field((), description="losses that a spike is measured against; else empty")
    held_out_loss: float | None = Field(None, description="nats a token, if an evaluation fell on this very step")
    held_out_on: dict[str, Any] = Field({}, description="identity of the held-out sequences of the last evaluation")
    held_out_since: int = Field(0, ge=0, description="the first evaluation on these sequences was after this step")
    held_out_sources_since: dict[str, int] = Field(
        {}, description="the same for each source by itself, where it is an earlier step"
    )

    @property
    def batch(self) -> int:
        """The number of the batch that the next step takes: number `step` of those that are not left out."""
        number = self.step
        for first, last in self.left_out:
            if number >= first:
                number += last - first + 1
        return number

    def source_evaluated_since(self, source: str) -> int:
        """Returns the step of the first evaluation of a source on the held-out sequences of the last one."""
        return self.held_out_sources_since.get(source, self.held_out_since)

    def after_step(self, *, tokens: int, skipped: bool, optimizer_steps: int, zeroed_weights: int = 0) -> TrainState:
        """Returns the state after one more step of `tokens` unmasked tokens."""
        changes = {
            "step": self.step + 1,
            "tokens": self.tokens + tokens,
            "optimizer_steps": optimizer_steps,
            "skipped_steps": self.skipped_steps + skipped,
            "zeroed_weight_steps": self.zeroed_weight_steps + zeroed_weights,
            "skipped_in_a_row": self.skipped_in_a_row + 1 if skipped else 0,
            "held_out_loss": None,
        }
        return self.model_copy(update=changes)

    def with_held_out_loss(self, loss: float, *, on: dict[str, Any]) -> TrainState:
        """Returns the same state with its held-out loss known; the next step's state has none.

        `on` is the identity of the sequences, by which losses are compared or not.
        """
        since = self.held_out_since if are_comparable(on, self.held_out_on) else self.step
        sources_since = {
            name: self.source_evaluated_since(name)
            for name in on.get("sources", {})
            if are_comparable_of_source(name, on, self.held_out_on) and self.source_evaluated_since(name) != since
        }
        return self.model_copy(
            update={
                "evaluated_step": self.step,
                "held_out_loss": loss if math.isfinite(loss) else None,
                "held_out_on": on,
                "held_out_since": since,
                "held_out_sources_since": sources_since,
            }
        )

    def with_evaluation_due(self, *, on: dict[str, Any]) -> TrainState:
        """Returns the state in which this step is to be evaluated on the sequences `on`; the same if it was."""
        if are_comparable(on, self.held_out_on):
            return self
        return self.model_copy(update={"evaluated_step": 0, "held_out_loss": None})


def with_batches_left_out(left_out: BatchRanges, first: int, last: int) -> BatchRanges:
    """Adds batches `first` to `last` to the ranges, and joins ranges that touch."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted([*left_out, (first, last)]):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return tuple(merged)
