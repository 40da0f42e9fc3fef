"""A loss curve as it was read, and the check that run folders and CSV files share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from laws.curve import Floats, Ints, LossCurve
from settings import UserError

_TOKENS_CHANGE = 0.1  # of the tokens a step; masks make them vary by less


@dataclass(frozen=True)
class Reading:
    """A curve, with notes on what had to be assumed to read it."""

    curve: LossCurve
    notes: tuple[str, ...] = ()

    def of_size(self, parameters: float) -> Reading:
        """Returns the same curve, of a model with so many parameters."""
        return Reading(replace(self.curve, parameters=parameters), self.notes)


def check_tokens(path: Path, steps: Ints, tokens: Floats) -> None:
    """Raises UserError if the tokens a step change for good; single odd steps pass."""
    per_step = np.diff(tokens) / np.diff(steps)
    if per_step.size < 2:
        return
    block = max(1, min(20, per_step.size // 4))
    medians = np.median(per_step[: per_step.size // block * block].reshape(-1, block), axis=1)
    off = np.nonzero(np.abs(medians - medians[0]) > _TOKENS_CHANGE * np.abs(medians[0]))[0]
    if off.size:
        step = int(steps[off[0] * block])
        raise UserError(
            f"{path}: the batch size changes near step {step}, from {medians[0]:.0f} to {medians[off[0]]:.0f} tokens a "
            f"step, and the laws count steps; fit only the steps before it with --last-step {step}"
        )


def median_batch(steps: Ints, tokens: Floats) -> float | None:
    """Returns the median of the tokens a step, from their running sum; None if a single row cannot tell."""
    if steps.size < 2:
        return None
    batch = float(np.median(np.diff(tokens) / np.diff(steps)))
    return batch if batch > 0 else None
