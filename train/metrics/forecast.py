"""A run's forecast against its measured loss: at each evaluation, in the metrics, on the console, and at the end.

All it knows of the past is in metrics.jsonl (the lr of every step, skipped steps, held-out losses and their forecasts),
so a resumed run forecasts what it would have forecast without the stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from laws.curve import Floats, LossCurve, LrCurve, detect_warmup
from laws.forecasting.drift import DriftDetector
from laws.forecasting.prediction import Forecaster, Prediction, RunProgress
from settings import UserError
from train.held_out_loss import HELD_OUT_LOSS
from train.metrics.evaluation_record import EvaluationRecord, format_prediction, recalled_record
from train.state import TrainState


class RunForecast:
    """The forecast of one run, on the rank that writes."""

    def __init__(
        self,
        forecaster: Forecaster,
        *,
        from_other_runs: bool,
        planned_lr_n: Floats,
        warmup_steps: int | None = None,
    ) -> None:
        """`from_other_runs`: the forecaster was fitted to other runs, and does not wait for this run's losses.

        `planned_lr_n` is the planned lr of every step. `warmup_steps` is None if the schedule does not say (a table):
        then the warm-up is the first rise of the lr.
        """
        self._forecaster = forecaster
        self._from_other_runs = from_other_runs
        self._planned_n = planned_lr_n
        self._warmup_steps = detect_warmup(self._planned_n) if warmup_steps is None else warmup_steps
        self._applied_lr: list[float] = []  # of the steps that changed the weights
        self._applied_by: list[int] = []  # how many of these there were after every step taken
        self._history: list[EvaluationRecord] = []
        self._drift = DriftDetector()

    def recall(self, rows: Sequence[Mapping[str, Any]], *, state: TrainState) -> None:
        """Restores the history from the rows of metrics.jsonl of the steps of `state`, in order.

        Held-out losses on other sequences than those of its last evaluation are left out.
        """
        skipped = 0
        for row in rows:
            if row["step"] > state.step:
                break
            if "lr" in row:
                before, skipped = skipped, int(row.get("skipped_steps") or 0)
                self.step(int(row["step"]), lr=float(row["lr"]), skipped=skipped > before)
            if HELD_OUT_LOSS in row and row["step"] >= state.held_out_since:
                self._history.append(recalled_record(row, applied=self._applied))
        self._fill(state.step)
        self._drift = _drift_after(self._history)

    def step(self, step: int, *, lr: float, skipped: bool) -> None:
        """Notes a step, counted from 1. A step that is taken anew replaces all that came after it."""
        if step <= len(self._applied_by):
            del self._applied_by[step - 1 :]
            del self._applied_lr[self._applied :]
            self._keep(lambda record: record.step < step)
        self._fill(step - 1)
        self._applied_lr += [] if skipped else [lr]
        self._applied_by.append(len(self._applied_lr))

    def evaluation(self, state: TrainState, loss: float) -> EvaluationRecord:
        """Notes the held-out loss of `state`: returns it with its forecast from before, and the new final one.

        Earlier losses on other sequences are forgotten.
        """
        step = state.step
        self._fill(step)
        if any(record.step < state.held_out_since for record in self._history):
            self._keep(lambda record: record.step >= state.held_out_since)
        was_outside = self._drift.outside
        now = self._predict(self._applied)
        departure = self._drift.see(step, loss, now) if isinstance(now, Prediction) else None
        record = EvaluationRecord(step, self._applied, loss, now, now, max(self._planned_n.size, step), departure)
        self._history.append(record)
        self._history[-1] = replace(
            record,
            final=self._predict(None) if step < self._planned_n.size else now,
            outside=self._drift.outside,
            returned=was_outside and not self._drift.outside,
        )
        return self._history[-1]

    def opening_line(self) -> str | None:
        """Returns the forecast of the final loss before the first step; None if there cannot be one yet."""
        final = self._predict(None)
        if isinstance(final, str):
            return None
        return f"forecast of the held-out loss after {self._planned_n.size} steps: {format_prediction(final)}"

    def closing_line(self) -> str | None:
        """Returns the last line of a run: forecast, fact, error, and whether the fact is inside; None before the end.

        A forecast from the run's own losses is judged by the first one that there was of the end.
        """
        if not self._history or self._history[-1].step < self._planned_n.size:
            return None
        last = self._history[-1]
        own = (record for record in self._history if not self._from_other_runs and _forecasts_end(record, last))
        judged = next(own, last)
        if isinstance(judged.final, str):
            return f"held-out loss {last.loss:.4f}; there was no forecast of it: {judged.final}"
        when = "" if self._from_other_runs else f" at step {(judged if judged is not last else self._history[-2]).step}"
        error = 100 * (last.loss / judged.final.loss - 1)
        forecast = f"forecast{when} {format_prediction(judged.final)}"
        inside = "inside" if judged.final.low <= last.loss <= judged.final.high else "outside"
        return f"held-out loss: {forecast}, fact {last.loss:.4f}, error {error:+.2f}%, {inside} the interval"

    def _keep(self, kept: Callable[[EvaluationRecord], bool]) -> None:
        self._history = [record for record in self._history if kept(record)]
        self._drift = _drift_after(self._history)

    @property
    def _applied(self) -> int:
        return self._applied_by[-1] if self._applied_by else 0

    def _fill(self, step: int) -> None:
        """Assumes that steps up to `step` which no file remembers were as planned."""
        for lr in self._planned_n[len(self._applied_by) : step].tolist():
            self._applied_lr.append(lr)
            self._applied_by.append(len(self._applied_lr))

    def _predict(self, applied: int | None) -> Prediction | str:
        """Predicts the loss after so many applied steps (None: after all) from the progress so far; or says why not."""
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
        """Returns the losses so far, on the lr applied so far. A step that was skipped adds none."""
        (nonzero,) = np.nonzero(applied_n)
        losses: dict[int, float] = {}
        for record in self._history:
            if math.isfinite(record.loss) and record.loss > 0 and nonzero.size and record.applied > nonzero[0]:
                losses.setdefault(record.applied, record.loss)
        if not losses:
            return None
        schedule = LrCurve(applied_n[: max(losses)], min(self._warmup_steps, max(losses)))
        return LossCurve(schedule, np.array(list(losses)), loss=np.array(list(losses.values())))


def _forecasts_end(record: EvaluationRecord, last: EvaluationRecord) -> bool:
    return isinstance(record.final, Prediction) and record.final_step == last.step


def _drift_after(history: Sequence[EvaluationRecord]) -> DriftDetector:
    """Returns a detector that has seen all these evaluations."""
    drift = DriftDetector()
    for record in history:
        if isinstance(record.now, Prediction):
            drift.see(record.step, record.loss, record.now)
    return drift
