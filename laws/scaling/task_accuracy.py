"""From the loss of a task to its accuracy, the second of two steps: a sigmoid (model ladders, arXiv 2412.04403).

    accuracy = floor + (ceiling - floor) / (1 + exp(steepness (loss - middle)))

The first step forecasts the loss of the task, in bits a byte or nats of the right answer, by a law of runs. The second
is fitted to checkpoints of all sizes, since accuracy depends on the loss and not on how it was reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from laws.curve import Floats
from settings import UserError

_LEAST_POINTS = 8  # twice the parameters
_STARTS = (1.0, 5.0, 20.0)  # of the steepness


@dataclass(frozen=True)
class TaskAccuracy:
    """The accuracy of a task as a function of its loss."""

    floor: float
    ceiling: float
    middle: float
    steepness: float
    spread: float  # standard deviation of the residuals

    def accuracy(self, loss: Floats | float) -> Floats:
        """Returns the accuracy at each loss."""
        share: Floats = 1 / (1 + np.exp(np.clip(self.steepness * (np.asarray(loss) - self.middle), -60, 60)))
        return self.floor + (self.ceiling - self.floor) * share


def fit_task_accuracy(loss_n: Floats, accuracy_n: Floats, *, floor: float) -> TaskAccuracy:
    """Fits the sigmoid by least squares, robustly. `floor`: the accuracy of guessing, such as 1 of 4 answers.

    Raises UserError for fewer than 8 points, and if the accuracy does not rise above the floor as the loss falls.
    """
    loss_n, accuracy_n = np.asarray(loss_n, dtype=np.float64), np.asarray(accuracy_n, dtype=np.float64)
    if loss_n.size < _LEAST_POINTS or loss_n.shape != accuracy_n.shape:
        raise UserError(f"{loss_n.size} losses and {accuracy_n.size} accuracies: a task needs {_LEAST_POINTS} of each")
    if not 0 <= floor < 1:
        raise UserError(f"floor = {floor:g} must be an accuracy, such as 0.25 for one of four answers")
    is_constant = 0.0 in (np.ptp(loss_n), np.ptp(accuracy_n))
    if is_constant or np.corrcoef(loss_n, accuracy_n)[0, 1] > -0.5:
        raise UserError("the accuracy does not rise as the loss falls, so no loss forecasts it: the runs are too small")

    def residual(search: Floats) -> Floats:
        return _of(search, floor).accuracy(loss_n) - accuracy_n

    middle = float(np.median(loss_n))
    bounds = ([floor + 0.01, loss_n.min() - 5, 0.1], [1.0, loss_n.max() + 5, 100.0])
    starts = [np.array([min(0.99, float(accuracy_n.max()) + 0.1), middle, steepness]) for steepness in _STARTS]
    fits = [least_squares(residual, np.clip(x, *bounds), bounds=bounds, loss="huber", f_scale=0.01) for x in starts]
    best = min(fits, key=lambda fit: float(fit.cost))
    return _of(best.x, floor, spread=float(np.std(residual(best.x))))


def _of(search: Floats, floor: float, spread: float = 0.0) -> TaskAccuracy:
    ceiling, middle, steepness = (float(value) for value in search)
    return TaskAccuracy(floor, ceiling, middle, steepness, spread)
