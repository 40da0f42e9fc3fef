"""A run's forecast beside its fact: at each evaluation, in the metrics, on the console, and in its last line.

All it knows of the past stands in metrics.jsonl (the lr of every step, skipped steps, held-out losses and what was
forecast of them), so a run that goes on says what it would have said without the stop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from laws.curve import Floats, LossCurve, LrCurve, detect_warmup
from laws.forecasting.drift import DriftDetector, DriftEvent
from laws.forecasting.prediction import Forecaster, Prediction, RunProgress
from settings import UserError

HELD_OUT_LOSS = "held_out/loss"


@dataclass(frozen=True)
class EvaluationRecord:
    """An evaluation; what was forecast of it beforehand, and what is forecast of the end now, or why nothing is."""

    step: int
    applied: int  # steps that had changed the weights
    loss: float
    now: Prediction | str
    final: Prediction | str
    final_step: int
    departure: DriftEvent | None = None  # where an excursion from the band begins
    outside: bool = False
    returned: bool = False

    def metrics(self) -> dict[str, float | int]:
        """As keys of metrics.jsonl. `error`: fact / forecast - 1; `left_band`: the same, where an excursion begins."""
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
        """For the console, after the held-out loss."""
        now = f"forecast {_shown(self.now)}" if isinstance(self.now, Prediction) else ""
        if self.step >= self.final_step:
            return now or f"no forecast: {self.final}"
        final = f"final {_shown(self.final)}" if isinstance(self.final, Prediction) else f"final: not yet, {self.final}"
        return "  ".join(filter(None, [now, final]))

    def notice(self) -> str | None:
        """A line of its own, where the run leaves the band of its forecast, or comes back."""
        if self.returned:
            return f"step {self.step}: the held-out loss is back within the band of its forecast"
        if self.departure is None:
            return None
        error = self.departure.error
        size = f"{100 * abs(error):.2f}% {'above' if error > 0 else 'below'}" if math.isfinite(error) else "not finite:"
        return (
            f"warning: step {self.step}: the held-out loss {self.loss:.4f} is {size} its forecast "
            f"{_shown(self.departure.prediction)}; the run has left the band"
        )


class RunForecast:
    """Of one run, on the rank that writes."""

    def __init__(
        self,
        forecaster: Forecaster,
        *,
        promised: bool,
        planned_lr_n: Floats,
        warmup_steps: int | None = None,
    ) -> None:
        """`promised`: the forecaster knows other runs and not this one's losses. `planned_lr_n`: of every step.

        `warmup_steps`: None where the schedule does not say (a table): then its first rise.
        """
        self._forecaster = forecaster
        self._promised = promised
        self._planned_n = planned_lr_n
        self._warmup_steps = detect_warmup(self._planned_n) if warmup_steps is None else warmup_steps
        self._applied_lr: list[float] = []  # of the steps that changed the weights
        self._applied_by: list[int] = []  # how many of these there were after every step taken
        self._history: list[EvaluationRecord] = []
        self._watch = DriftDetector()

    def recall(self, rows: Sequence[Mapping[str, Any]], *, step: int) -> None:
        """Take in what metrics.jsonl holds of the first `step` steps, in order."""
        skipped = 0
        for row in rows:
            if row["step"] > step:
                break
            if "lr" in row:
                before, skipped = skipped, int(row.get("skipped_steps") or 0)
                self.step(int(row["step"]), lr=float(row["lr"]), skipped=skipped > before)
            if HELD_OUT_LOSS in row:
                self._history.append(_recalled(row, applied=self._applied))
        self._fill(step)
        self._watch = _watched(self._history)

    def step(self, step: int, *, lr: float, skipped: bool) -> None:
        """A step was taken, counted from 1. One that is taken anew replaces what came after it."""
        if step <= len(self._applied_by):
            del self._applied_by[step - 1 :]
            del self._applied_lr[self._applied :]
            self._history = [seen for seen in self._history if seen.step < step]
            self._watch = _watched(self._history)
        self._fill(step - 1)
        self._applied_lr += [] if skipped else [lr]
        self._applied_by.append(len(self._applied_lr))

    def evaluation(self, step: int, loss: float) -> EvaluationRecord:
        """The held-out loss after a step, beside its forecast from before; the forecast of the end with it known."""
        self._fill(step)
        was_outside = self._watch.outside
        now = self._outlook(self._applied)
        departure = self._watch.see(step, loss, now) if isinstance(now, Prediction) else None
        seen = EvaluationRecord(step, self._applied, loss, now, now, max(self._planned_n.size, step), departure)
        self._history.append(seen)
        self._history[-1] = replace(
            seen,
            final=self._outlook(None) if step < self._planned_n.size else now,
            outside=self._watch.outside,
            returned=was_outside and not self._watch.outside,
        )
        return self._history[-1]

    def opening(self) -> str | None:
        """What is said of the end before the first step; None where that cannot be."""
        final = self._outlook(None)
        if isinstance(final, str):
            return None
        return f"forecast of the held-out loss after {self._planned_n.size} steps: {_shown(final)}"

    def verdict(self) -> str | None:
        """The last line of a run: forecast, fact and error. None where the end has not been reached.

        A forecast from the run's own losses is the first one that there was of the end.
        """
        if not self._history or self._history[-1].step < self._planned_n.size:
            return None
        last = self._history[-1]
        told = next((seen for seen in self._history if not self._promised and _tells(seen, last)), last)
        if isinstance(told.final, str):
            return f"held-out loss {last.loss:.4f}; there was no forecast of it: {told.final}"
        when = "" if self._promised else f" at step {told.step if told is not last else self._history[-2].step}"
        error = 100 * (last.loss / told.final.loss - 1)
        return f"held-out loss: forecast{when} {_shown(told.final)}, fact {last.loss:.4f}, error {error:+.2f}%"

    @property
    def _applied(self) -> int:
        return self._applied_by[-1] if self._applied_by else 0

    def _fill(self, step: int) -> None:
        """Steps up to `step` that no file remembers were as planned."""
        for lr in self._planned_n[len(self._applied_by) : step].tolist():
            self._applied_lr.append(lr)
            self._applied_by.append(len(self._applied_lr))

    def _outlook(self, applied: int | None) -> Prediction | str:
        """Of the loss after so many applied steps (None: after all), from where the run stands."""
        applied_n = np.array(self._applied_lr)
        lr_n = np.concatenate([applied_n, self._planned_n[len(self._applied_by) :]])
        step = lr_n.size if applied is None else applied
        if not lr_n[:step].any():
            return "no step has changed the weights"
        schedule = LrCurve(lr_n, min(self._warmup_steps, lr_n.size))
        try:
            return self._forecaster.predict_loss(RunProgress(schedule, self._losses(applied_n)), step)
        except UserError as error:  # the run itself is in order: it goes on without a forecast
            return str(error)

    def _losses(self, applied_n: Floats) -> LossCurve | None:
        """The losses so far, on the lr applied so far. A step that was skipped gives no new one."""
        (moved,) = np.nonzero(applied_n)
        kept: dict[int, float] = {}
        for seen in self._history:
            if math.isfinite(seen.loss) and seen.loss > 0 and moved.size and seen.applied > moved[0]:
                kept.setdefault(seen.applied, seen.loss)
        if not kept:
            return None
        schedule = LrCurve(applied_n[: max(kept)], min(self._warmup_steps, max(kept)))
        return LossCurve(schedule, np.array(list(kept)), loss=np.array(list(kept.values())))


def _tells(seen: EvaluationRecord, last: EvaluationRecord) -> bool:
    return isinstance(seen.final, Prediction) and seen.final_step == last.step


def _recalled(row: Mapping[str, Any], *, applied: int) -> EvaluationRecord:
    """An evaluation as its line in metrics.jsonl tells it."""
    now, final = _told(row, "loss", ""), _told(row, "final", "final_")
    final_step = int(row.get("forecast/final_step", 0))
    return EvaluationRecord(int(row["step"]), applied, float(row[HELD_OUT_LOSS]), now, final, final_step)


def _told(row: Mapping[str, Any], name: str, prefix: str) -> Prediction | str:
    if f"forecast/{name}" not in row:
        return "the run was not forecast then"
    return Prediction(*(float(row[f"forecast/{key}"]) for key in (name, f"{prefix}low", f"{prefix}high")))


def _watched(history: Sequence[EvaluationRecord]) -> DriftDetector:
    """A watch that has seen all this."""
    watch = DriftDetector()
    for seen in history:
        if isinstance(seen.now, Prediction):
            watch.see(seen.step, seen.loss, seen.now)
    return watch


def _shown(prediction: Prediction) -> str:
    return f"{prediction.loss:.4f} (90%: {prediction.low:.4f} to {prediction.high:.4f})"
