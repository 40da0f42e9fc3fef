"""The contract of a forecast of a run's loss: a prediction with its interval, made from the run's progress.

The lr counts by steps that changed the weights: a skipped step trains nothing, and a law does not count it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from laws.curve import EvaluationPoints, LossCurve, LrCurve


@dataclass(frozen=True)
class Prediction:
    """A forecast loss and its 90% interval."""

    loss: float
    low: float
    high: float

    def half_width(self, fact: float) -> float:
        """Returns the width of the interval on the side of the fact, in log loss."""
        return math.log(self.high / self.loss) if fact > self.loss else math.log(self.loss / self.low)


@dataclass(frozen=True, eq=False)
class RunProgress:
    """The progress of a run: `schedule` is the lr applied so far, then the planned one; `losses` are those so far."""

    schedule: LrCurve
    losses: LossCurve | None  # None before the first; its schedule ends with its last loss

    def at(self, step: int, parameters: float | None = None, batch_tokens: float | None = None) -> EvaluationPoints:
        """Returns one step of the schedule as an evaluation point."""
        return EvaluationPoints(self.schedule, np.array([step]), parameters=parameters, batch_tokens=batch_tokens)


class Forecaster(Protocol):
    """Predicts the losses of a run."""

    def predict_loss(self, progress: RunProgress, step: int) -> Prediction | str:
        """Returns the forecast loss after `step` steps of the schedule, or why there is none."""
        ...
