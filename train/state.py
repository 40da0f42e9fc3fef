"""All that a resume needs besides tensors: a few integers, kept as JSON in each checkpoint."""

from __future__ import annotations

import math

from pydantic import Field

from settings import Settings


class TrainState(Settings):
    """Where a run stands after `step` steps. The order of data follows from `step` alone."""

    step: int = Field(0, ge=0)
    tokens: int = Field(0, ge=0, description="unmasked tokens trained on, over all data ranks")
    optimizer_steps: int = Field(0, ge=0, description="steps that changed weights")
    skipped_steps: int = Field(0, ge=0, description="steps without a finite gradient")
    skipped_in_a_row: int = Field(0, ge=0)
    held_out_loss: float | None = Field(None, description="nats a token, where an evaluation fell on this very step")

    def evaluated(self, held_out_loss: float) -> TrainState:
        """The same state, its held-out loss known; the next step's has none."""
        loss = held_out_loss if math.isfinite(held_out_loss) else None
        return self.model_copy(update={"held_out_loss": loss})
