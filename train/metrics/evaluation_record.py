"""An evaluation with its forecasts: its keys in metrics.jsonl and its text on the console."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laws.forecasting.drift import DriftEvent
from laws.forecasting.prediction import Prediction
from train.held_out_loss import HELD_OUT_LOSS


@dataclass(frozen=True)
class EvaluationRecord:
    """A held-out loss, the forecast of it from before, and the forecast of the final loss; or why there is none."""

    step: int
    applied: int  # steps that had changed the weights
    loss: float
    now: Prediction | str
    final: Prediction | str
    final_step: int
    departure: DriftEvent | None = None  # at the evaluation where the loss leaves the band of its forecast
    outside: bool = False  # of the band
    returned: bool = False  # into the band, at this evaluation

    def metrics(self) -> dict[str, float | int]:
        """Returns the forecasts by their keys in metrics.jsonl.

        `forecast/error` is measured / forecast - 1; `forecast/left_band` is the same where the loss leaves the band.
        """
        values: dict[str, float | int] = {}
        if isinstance(self.now, Prediction):
            values |= {"forecast/loss": self.now.loss, "forecast/low": self.now.low, "forecast/high": self.now.high}
            values |= {"forecast/error": self.loss / self.now.loss - 1, "forecast/outside": int(self.outside)}
        if self.departure is not None:
            values["forecast/left_band"] = self.departure.error
        if isinstance(self.final, Prediction):
            values |= {"forecast/final": self.final.loss, "forecast/final_low": self.final.low}
            values |= {"forecast/final_high": self.final.high, "forecast/final_step": self.final_step}
        return values

    def line(self) -> str:
        """Returns the part of the console's line that follows the held-out loss."""
        now = f"forecast {format_prediction(self.now)}" if isinstance(self.now, Prediction) else ""
        if self.step >= self.final_step:
            return now or f"no forecast: {self.final}"
        final = (
            f"final {format_prediction(self.final)}"
            if isinstance(self.final, Prediction)
            else f"final: not yet, {self.final}"
        )
        return "  ".join(filter(None, [now, final]))

    def drift_notice(self) -> str | None:
        """Returns a line of its own if the loss leaves the band of its forecast, or comes back; else None."""
        if self.returned:
            return f"step {self.step}: the held-out loss is back within the band of its forecast"
        if self.departure is None:
            return None
        error = self.departure.error
        size = f"{100 * abs(error):.2f}% {'above' if error > 0 else 'below'}" if math.isfinite(error) else "not finite:"
        return (
            f"warning: step {self.step}: the held-out loss {self.loss:.4f} is {size} its forecast "
            f"{format_prediction(self.departure.prediction)}; the run has left the band"
        )


def recalled_record(row: Mapping[str, Any], *, applied: int) -> EvaluationRecord:
    """Restores the record of an evaluation from its line in metrics.jsonl."""
    now, final = _recalled_prediction(row, "loss", ""), _recalled_prediction(row, "final", "final_")
    final_step = int(row.get("forecast/final_step", 0))
    return EvaluationRecord(int(row["step"]), applied, float(row[HELD_OUT_LOSS]), now, final, final_step)


def format_prediction(prediction: Prediction) -> str:
    """Formats a forecast with its band."""
    return f"{prediction.loss:.4f} (90%: {prediction.low:.4f} to {prediction.high:.4f})"


def _recalled_prediction(row: Mapping[str, Any], name: str, prefix: str) -> Prediction | str:
    if f"forecast/{name}" not in row:
        return "the run was not forecast then"
    return Prediction(*(float(row[f"forecast/{key}"]) for key in (name, f"{prefix}low", f"{prefix}high")))
