"""The plots of `lehr law`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from launcher.commands.figures import save_picture
from laws.curve import EvaluationPoints, LossCurve, every_step
from laws.fitting.fitted import Fit
from laws.schedule_search.candidate import Candidate


def plot_fit(fit: Fit, curves: Sequence[LossCurve], path: Path) -> None:
    """Draws the losses with the law, the relative residuals and the lr, in three rows."""
    figure = Figure(figsize=(9, 9), layout="constrained")
    losses, residuals, lrs = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1])
    for index, curve in enumerate(curves):
        fitted = curve.after_warmup()
        predicted = fit.predict(fitted)
        percent = 100 * (fitted.loss / predicted - 1)
        colour = f"C{index % 10}"
        losses.plot(fitted.steps, fitted.loss, ".", color=colour, markersize=3, label=curve.name)
        losses.plot(fitted.steps, predicted, "-", color=colour, linewidth=1)
        residuals.plot(fitted.steps, percent, ".-", color=colour, markersize=3, linewidth=0.5)
        lrs.plot(curve.schedule.lr, color=colour)
    losses.set(ylabel="loss", title=f"{fit.law.name} law: losses (dots) and fit (lines)")
    losses.legend()
    residuals.axhline(0, color="black", linewidth=0.5)
    residuals.set(ylabel="loss over fit - 1, %")
    lrs.set(ylabel="lr", xlabel="step")
    save_picture(figure, path)


def plot_prediction(fit: Fit, points: EvaluationPoints, path: Path) -> None:
    """Draws the predicted curve with its interval, and the lr."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    losses, lrs = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    low, high = fit.band(points)
    losses.fill_between(points.steps, low, high, alpha=0.3, label="90%")
    losses.plot(points.steps, fit.predict(points), label=f"{fit.law.name} law")
    losses.set(ylabel="loss")
    losses.legend()
    lrs.plot(points.schedule.lr)
    lrs.set(ylabel="lr", xlabel="step")
    save_picture(figure, path)


def plot_candidates(fit: Fit, candidates: Sequence[Candidate], path: Path, *, parameters: float | None = None) -> None:
    """Draws the schedules and their predicted losses, best first."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    lrs, losses = figure.subplots(2, 1, sharex=True)
    for candidate in candidates:
        points = every_step(candidate.schedule, parameters=parameters)
        label = f"{candidate.name}: {candidate.loss:.4f}"
        lrs.plot(np.arange(candidate.schedule.steps), candidate.schedule.lr, label=label)
        losses.plot(points.steps, fit.predict(points))
    _zoom(losses, [candidate.loss for candidate in candidates])
    lrs.set(ylabel="lr", title=f"schedules and final losses by the {fit.law.name} law")
    lrs.legend()
    losses.set(ylabel="predicted loss", xlabel="step")
    save_picture(figure, path)


def _zoom(axes: Axes, final_losses: Sequence[float]) -> None:
    """Limits the axis to the losses near the end: the first losses are far above."""
    low, high = min(final_losses), max(final_losses)
    axes.set_ylim(low - 0.3 * (high - low) - 0.005, high + 2 * (high - low) + 0.02)
