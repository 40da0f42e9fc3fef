"""The pictures of `lehr law`, as PNG."""

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
    """Losses and the law above, relative residuals below; the lr in a third row."""
    figure = Figure(figsize=(9, 9), layout="constrained")
    losses, residuals, lrs = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1])
    for index, curve in enumerate(curves):
        used = curve.after_warmup()
        predicted = fit.predict(used)
        colour = f"C{index % 10}"
        losses.plot(used.steps, used.loss, ".", color=colour, markersize=3, label=curve.name)
        losses.plot(used.steps, predicted, "-", color=colour, linewidth=1)
        residuals.plot(used.steps, 100 * (used.loss / predicted - 1), ".-", color=colour, markersize=3, linewidth=0.5)
        lrs.plot(curve.schedule.lr, color=colour)
    losses.set(ylabel="loss", title=f"{fit.law.name} law: losses (dots) and fit (lines)")
    losses.legend()
    residuals.axhline(0, color="black", linewidth=0.5)
    residuals.set(ylabel="loss over fit - 1, %")
    lrs.set(ylabel="lr", xlabel="step")
    save_picture(figure, path)


def plot_prediction(fit: Fit, places: EvaluationPoints, path: Path) -> None:
    """The predicted curve with its band, and the lr."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    losses, lrs = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    low, high = fit.band(places)
    losses.fill_between(places.steps, low, high, alpha=0.3, label="90%")
    losses.plot(places.steps, fit.predict(places), label=f"{fit.law.name} law")
    losses.set(ylabel="loss")
    losses.legend()
    lrs.plot(places.schedule.lr)
    lrs.set(ylabel="lr", xlabel="step")
    save_picture(figure, path)


def plot_candidates(fit: Fit, candidates: Sequence[Candidate], path: Path, *, parameters: float | None = None) -> None:
    """The schedules and their predicted losses, best first."""
    figure = Figure(figsize=(9, 7), layout="constrained")
    lrs, losses = figure.subplots(2, 1, sharex=True)
    for candidate in candidates:
        places = every_step(candidate.schedule, parameters=parameters)
        label = f"{candidate.name}: {candidate.loss:.4f}"
        lrs.plot(np.arange(candidate.schedule.steps), candidate.schedule.lr, label=label)
        losses.plot(places.steps, fit.predict(places))
    _zoom(losses, [candidate.loss for candidate in candidates])
    lrs.set(ylabel="lr", title=f"schedules and final losses by the {fit.law.name} law")
    lrs.legend()
    losses.set(ylabel="predicted loss", xlabel="step")
    save_picture(figure, path)


def _zoom(axes: Axes, final_losses: Sequence[float]) -> None:
    """Show the end: the start is far above."""
    low, high = min(final_losses), max(final_losses)
    axes.set_ylim(low - 0.3 * (high - low) - 0.005, high + 2 * (high - low) + 0.02)
