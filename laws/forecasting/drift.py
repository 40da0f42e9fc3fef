"""The alarm for a run whose loss leaves the band of its forecast."""

from __future__ import annotations

import math
from dataclasses import dataclass

from laws.forecasting.prediction import Prediction

FAR = 2.5  # half-widths of the band: once is enough
NEAR = 1.5  # half-widths of the band: on one side, IN_A_ROW times
IN_A_ROW = 3


@dataclass(frozen=True)
class DriftEvent:
    """A run leaves the band of its forecast."""

    step: int
    error: float  # fact / forecast - 1
    prediction: Prediction


class DriftDetector:
    """Reports once for each excursion that a run has left the band of its forecast.

    A run leaves it with a loss that lies FAR half-widths from the forecast, or with IN_A_ROW losses in a row that lie
    NEAR on the same side; it is back when IN_A_ROW losses in a row lie within the band. So one noisy loss raises no
    alarm: of runs whose losses are Gaussian as the band supposes, independent or all shifted together, at most 1 in 60
    is flagged in 100 losses.
    """

    def __init__(self) -> None:
        self.outside = False
        self._in_a_row = 0  # losses in a row that speak for a change of `outside`, negative below the forecast

    def see(self, step: int, fact: float, prediction: Prediction) -> DriftEvent | None:
        """Takes in one loss and its forecast; returns an event where an excursion begins.

        A loss that is not finite begins one.
        """
        size = _half_widths(fact, prediction)
        if self.outside:
            self._in_a_row = self._in_a_row + 1 if abs(size) <= 1 else 0
            if self._in_a_row == IN_A_ROW:
                self.outside, self._in_a_row = False, 0
            return None
        if abs(size) <= NEAR:
            self._in_a_row = 0
        else:
            side = 1 if size > 0 else -1
            self._in_a_row = self._in_a_row + side if self._in_a_row * side > 0 else side
        if abs(size) > FAR or abs(self._in_a_row) == IN_A_ROW:
            self.outside, self._in_a_row = True, 0
            return DriftEvent(step, fact / prediction.loss - 1, prediction)
        return None


def _half_widths(fact: float, prediction: Prediction) -> float:
    """Returns how far a loss lies from its forecast; 1 is the edge of the band."""
    if not (math.isfinite(fact) and fact > 0):
        return math.inf
    return math.log(fact / prediction.loss) / prediction.half_width(fact)
