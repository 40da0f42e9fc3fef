"""The forecast of a run at each evaluation, and the effect of a stop, a skipped step or a repeated step on it."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from laws.curve import EvaluationPoints, LossCurve, LrCurve, every_step, last_step, planned_lr_curve
from laws.fitting.fitted import Fit, fit_curves
from laws.forecasting.fixed_fit_forecast import FixedFitForecast
from laws.forecasting.prediction import Forecaster, Prediction
from laws.forecasting.refitted_forecast import RefittedForecast
from laws.law import DEFAULT_LAW, LAWS
from parallel.engines.engine import StepResult
from schedules.base import SCHEDULES
from train.evaluate import Evaluation, SourceLoss
from train.metrics.forecast import RunForecast
from train.metrics.jsonl import read_metrics
from train.metrics.logger import MetricsLogger
from train.run_folder.folder import RunFolder
from train.state import TrainState

LAW = LAWS.parse(DEFAULT_LAW)
VALUES = {"L0": 2.6, "A": 0.55, "B": 0.19, "alpha": 0.48, "C": 0.02}
STEPS, EVERY, PEAK = 400, 10, 3e-3
PLANNED = planned_lr_curve(
    SCHEDULES.parse({"name": "cosine", "warmup_steps": 20, "min_lr": 3e-4}), peak_lr=PEAK, total_steps=STEPS
)


@pytest.fixture(scope="module")
def fit() -> Fit:
    places = every_step(PLANNED, most=60)
    wobble = np.random.default_rng(0).normal(scale=1e-3, size=places.steps.size)
    curve = LossCurve(PLANNED, places.steps, loss=LAW.predict(VALUES, places) * np.exp(wobble))
    return fit_curves(LAW, [curve], samples=50)


def true_loss(applied: int) -> float:
    wobble = float(np.random.default_rng(applied).normal(scale=1e-3))
    return float(LAW.predict(VALUES, EvaluationPoints(PLANNED, np.array([applied])))[0]) * math.exp(wobble)


class Run:
    """Does to metrics what the loop does: steps, an evaluation every few, maybe a stop."""

    def __init__(self, folder: Path, forecaster: Forecaster, *, from_step: int = 0, steps: int = STEPS) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.out = folder, io.StringIO()
        self.step, self.skipped = from_step, 0
        state = TrainState(step=from_step, evaluated_step=from_step)
        schedule = planned_lr_curve(
            SCHEDULES.parse({"name": "cosine", "warmup_steps": 20, "min_lr": 3e-4}), peak_lr=PEAK, total_steps=steps
        )
        self.lr = schedule.lr
        forecast = RunForecast(
            forecaster,
            from_other_runs=isinstance(forecaster, FixedFitForecast),
            planned_lr_n=self.lr,
            warmup_steps=20,
        )
        self.metrics = MetricsLogger(
            RunFolder(folder), writes=True, state=state, total_steps=steps, flops_per_step=1e9, peak_flops=1e10,
            memory_bytes=lambda: 1, log_every_steps=10**6, forecast=forecast, console=Console(file=self.out),
        )  # fmt: skip

    def go(self, to: int, *, skip: tuple[int, ...] = (), factor: dict[int, float] | None = None) -> Run:
        for step in range(self.step + 1, to + 1):
            self.skipped += step in skip
            state = TrainState(step=step, tokens=step, skipped_steps=self.skipped)
            result = StepResult(nll=3.0, grad_norm=1.0, skipped=step in skip)
            self.metrics.step(
                state, result, lr=float(self.lr[step - 1]), tokens=1, seconds=1.0, batch_hash="", rank_seconds={}
            )
            if step % EVERY == 0:
                loss = true_loss(step - self.skipped) * (factor or {}).get(step, 1.0)
                self.metrics.evaluation(state, Evaluation({"plays": SourceLoss(loss, 1.0, 10)}))
        self.step = to
        return self

    def end(self) -> list[dict[str, Any]]:
        self.closing_line = next(iter(self.metrics.closing_lines(TrainState(step=self.step))), None)
        self.metrics.close()
        return read_metrics(self.folder / "metrics.jsonl")


def forecaster(kind: str, fit: Fit) -> Forecaster:
    return FixedFitForecast(fit) if kind == "fit" else RefittedForecast(LAW)


KINDS = pytest.mark.parametrize("kind", ["fit", "auto"])


@KINDS
def test_forecast_and_fact_stand_side_by_side(kind: str, fit: Fit, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", forecaster(kind, fit)).go(STEPS)
    rows = {row["step"]: row for row in run.end()}
    late = rows[STEPS // 2 + 100]
    assert late["forecast/low"] < late["forecast/loss"] < late["forecast/high"]
    assert late["forecast/error"] == late["held_out/loss"] / late["forecast/loss"] - 1
    assert late["forecast/outside"] == 0
    assert late["forecast/final_low"] < rows[STEPS]["held_out/loss"] < late["forecast/final_high"]
    assert late["forecast/final_step"] == STEPS
    assert not any("forecast/left_band" in row for row in rows.values())
    if kind == "fit":  # it follows the curve from the end of the warm-up on
        assert rows[30]["forecast/final"] == rows[STEPS]["forecast/final"] == rows[STEPS]["forecast/loss"]
        assert rows[30]["forecast/loss"] == float(fit.predict(EvaluationPoints(PLANNED, np.array([30])))[0])
    else:
        assert "forecast/final" not in rows[30]
    lines = run.out.getvalue().splitlines()
    shown = next(line for line in lines if line.startswith(f"step {STEPS // 2 + 100} "))
    assert f"forecast {late['forecast/loss']:.4f} (90%: " in shown
    assert f"final {late['forecast/final']:.4f} (90%: " in shown


@KINDS
def test_the_verdict_says_forecast_fact_and_error(kind: str, fit: Fit, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", forecaster(kind, fit)).go(STEPS - EVERY)
    assert run.metrics.closing_lines(TrainState(step=run.step)) == []  # the end has not come
    rows = run.go(STEPS).end()
    told = next(row for row in rows if "forecast/final" in row)
    error = 100 * (rows[-1]["held_out/loss"] / told["forecast/final"] - 1)
    when = f" at step {told['step']}" if kind == "auto" else ""
    inside = "inside" if told["forecast/final_low"] <= rows[-1]["held_out/loss"] <= told["forecast/final_high"] else ""
    assert run.closing_line == (
        f"held-out loss: forecast{when} {told['forecast/final']:.4f} (90%: {told['forecast/final_low']:.4f} to "
        f"{told['forecast/final_high']:.4f}), fact {rows[-1]['held_out/loss']:.4f}, error {error:+.2f}%, "
        f"{inside or 'outside'} the interval"
    )
    assert abs(error) < 2
    opening = run.out.getvalue().splitlines()[0]
    assert opening.startswith("forecast of the held-out loss after 400 steps: ") == (kind == "fit")


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize(
    "cut", [pytest.param(205, marks=pytest.mark.slow), pytest.param(210, marks=pytest.mark.slow), 350]
)
def test_a_run_that_goes_on_says_what_it_would_have_said(kind: str, cut: int, fit: Fit, tmp_path: Path) -> None:
    """Forecasts are equal to the bit, with a skipped step and an excursion before the stop."""
    skip, factor = (33, 34), {200: 1.05, 210: 1.05, 220: 1.05, 380: 1.02}
    uninterrupted = Run(tmp_path / "uninterrupted", forecaster(kind, fit)).go(STEPS, skip=skip, factor=factor)
    expected = uninterrupted.end()
    first = Run(tmp_path / "cut", forecaster(kind, fit)).go(cut + 7, skip=skip, factor=factor)
    first.metrics.close()
    second = Run(tmp_path / "cut", forecaster(kind, fit), from_step=cut)
    second.skipped = len(skip)
    found = second.go(STEPS, factor=factor).end()
    assert found == expected
    assert second.closing_line == uninterrupted.closing_line
    assert [row["step"] for row in found if "forecast/left_band" in row] == [200, 380]


def test_leaving_the_band_is_told_once_with_step_and_size(fit: Fit, tmp_path: Path) -> None:
    factor = dict.fromkeys(range(200, 260, EVERY), 1.03)
    run = Run(tmp_path / "run", FixedFitForecast(fit)).go(STEPS, factor=factor)
    rows = {row["step"]: row for row in run.end()}
    assert [step for step, row in rows.items() if "forecast/left_band" in row] == [200]
    assert rows[200]["forecast/left_band"] == rows[200]["forecast/error"] == pytest.approx(0.03, abs=0.005)
    outside = [step for step, row in rows.items() if row.get("forecast/outside") == 1]
    assert outside == list(range(200, 280, EVERY))
    notices = [line for line in run.out.getvalue().splitlines() if "band" in line]
    assert len(notices) == 2
    assert notices[0].startswith("warning: step 200: the held-out loss ")
    assert (
        f"is {100 * rows[200]['forecast/error']:.2f}% above its forecast {rows[200]['forecast/loss']:.4f}" in notices[0]
    )
    assert notices[1] == "step 280: the held-out loss is back within the band of its forecast"


def test_a_loss_that_is_not_finite_is_flagged_and_enters_no_refit(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", RefittedForecast(LAW)).go(STEPS, factor={300: math.nan})
    rows = {row["step"]: row for row in run.end()}
    assert math.isnan(rows[300]["forecast/left_band"])
    assert "not finite" in run.out.getvalue()
    assert rows[310]["forecast/error"] == pytest.approx(0, abs=0.005)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert any(json.loads(line).get("forecast/left_band", 0) is None for line in lines)


def test_a_skipped_step_does_not_count(fit: Fit, tmp_path: Path) -> None:
    """The law counts applied steps: after 5 skipped ones the forecast is that of 5 steps before, on the lr applied."""
    skip = tuple(range(101, 106))
    run = Run(tmp_path / "run", FixedFitForecast(fit)).go(200, skip=skip)
    rows = {row["step"]: row for row in run.end()}
    applied = np.delete(PLANNED.lr, np.array(skip) - 1)
    expected = fit.predict(EvaluationPoints(LrCurve(applied, 20), np.array([195])))[0]
    assert rows[200]["forecast/loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
@KINDS
def test_a_step_taken_anew_takes_the_place_of_what_followed(kind: str, fit: Fit) -> None:
    forecasts = []
    for repeated in (False, True):
        running = RunForecast(forecaster(kind, fit), from_other_runs=True, planned_lr_n=PLANNED.lr, warmup_steps=20)

        def take(first: int, last: int, *, broken: bool, running: RunForecast = running) -> None:
            for step in range(first, last + 1):
                running.step(step, lr=float(PLANNED.lr[step - 1]), skipped=broken)
                if step % EVERY == 0:
                    running.evaluation(TrainState(step=step), true_loss(step) * (1.05 if broken else 1))

        take(1, 300, broken=False)
        if repeated:
            take(301, 320, broken=True)
        take(301, 320, broken=False)
        forecasts.append(running.evaluation(TrainState(step=320), true_loss(320)))
    assert isinstance(forecasts[0].final, Prediction)
    assert forecasts[0] == forecasts[1]


@KINDS
def test_losses_on_other_sequences_are_forgotten(kind: str, fit: Fit) -> None:
    """A resumed run, which reads them in metrics.jsonl, does the same."""
    changed_at, last = 210, 340
    losses = {step: true_loss(step) * (1 if step >= changed_at else 1.3) for step in range(EVERY, last, EVERY)}

    def started() -> RunForecast:
        return RunForecast(forecaster(kind, fit), from_other_runs=True, planned_lr_n=PLANNED.lr, warmup_steps=20)

    def taken(evaluated_from: int) -> RunForecast:
        running = started()
        for step in range(1, last):
            running.step(step, lr=float(PLANNED.lr[step - 1]), skipped=False)
            if step in losses and step >= evaluated_from:
                since = changed_at if step >= changed_at else EVERY
                running.evaluation(TrainState(step=step, held_out_since=since), losses[step])
        return running

    rows = [{"step": step, "lr": float(PLANNED.lr[step - 1])} for step in range(1, last)]
    rows = [row | ({"held_out/loss": losses[int(row["step"])]} if row["step"] in losses else {}) for row in rows]
    resumed = started()
    resumed.recall(rows, state=TrainState(step=last - 1, held_out_since=changed_at))
    now = TrainState(step=last, held_out_since=changed_at)
    finals = [running.evaluation(now, true_loss(last)).final for running in (taken(changed_at), taken(0), resumed)]
    assert isinstance(finals[0], Prediction)
    assert finals[1:] == [finals[0]] * 2


def test_a_longer_run_is_forecast_to_its_new_end(fit: Fit, tmp_path: Path) -> None:
    """train.steps may change when a run goes on: the lr that was applied stays, the rest is the new plan."""
    Run(tmp_path / "run", FixedFitForecast(fit)).go(200).metrics.close()
    longer = Run(tmp_path / "run", FixedFitForecast(fit), from_step=200, steps=800)
    rows = {row["step"]: row for row in longer.go(210).end()}
    lr = np.concatenate([PLANNED.lr[:200], longer.lr[200:]])
    assert rows[210]["forecast/final_step"] == 800
    assert rows[210]["forecast/final"] == float(fit.predict(last_step(LrCurve(lr, 20)))[0])


def test_tensorboard_has_forecast_and_fact_in_one_chart(fit: Fit, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Run(tmp_path / "run", FixedFitForecast(fit)).go(100).end()
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert {"held_out/loss", "forecast/loss", "forecast/low", "forecast/high", "forecast/final"} <= set(tags["scalars"])
    assert [event.step for event in board.Scalars("forecast/final")] == list(range(10, 101, 10))
    assert [event.step for event in board.Scalars("forecast/loss")] == list(range(30, 101, 10))
    assert "custom_scalars__config__" in tags["tensors"]


def test_without_lines_of_the_past_the_plan_stands_in(fit: Fit, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", FixedFitForecast(fit), from_step=200)
    rows = {row["step"]: row for row in run.go(210).end()}
    assert rows[210]["forecast/loss"] == float(fit.predict(EvaluationPoints(PLANNED, np.array([210])))[0])


def test_a_run_that_could_not_be_forecast_says_so_in_the_end(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", RefittedForecast(LAW), steps=60).go(60)
    run.end()
    assert run.closing_line is not None
    assert run.closing_line.endswith("there was no forecast of it: 4 of 8 held-out losses")
    assert "final: not yet, no held-out loss after the warm-up yet" in run.out.getvalue()
