"""The plots of laws_on_own_runs.py: forecast against fact, and the chosen schedule against cosine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure
from own_runs_plan import Plan

from laws.curve import every_step
from laws.fitting.fitted import Fit
from settings.compose import parse


def plot_all(
    plan: Plan, folder: Path, *, fitted: Sequence[str], predicted: Sequence[str], seeds: Sequence[int], bound: float
) -> None:
    """Writes laws_forecast.png and laws_chosen_schedule.png. `bound` is the relative error that is shaded."""
    predictions = json.loads((plan.folder / "predictions.json").read_text())
    fits = {name: parse(Fit, plain, source="predictions.json") for name, plain in predictions["fits"].items()}
    folder.mkdir(parents=True, exist_ok=True)
    forecast = _forecast(plan, fits, (*fitted, *predicted), fitted=fitted, bound=bound)
    forecast.savefig(folder / "laws_forecast.png", dpi=110)
    _chosen(plan, seeds).savefig(folder / "laws_chosen_schedule.png", dpi=110)


def _forecast(plan: Plan, fits: dict[str, Fit], runs: Sequence[str], *, fitted: Sequence[str], bound: float) -> Figure:
    """Draws a column for each run: the losses with every law's curve, the errors below, the lr at the bottom."""
    figure = Figure(figsize=(3.2 * len(runs), 8), layout="constrained")
    axes = figure.subplots(3, len(runs), sharex=True, sharey="row", height_ratios=[3, 2, 1])
    first = plan.first_fitted_step
    for column, name in enumerate(runs):
        losses, errors, lrs = axes[:, column]
        curve, schedule = plan.curve(name, plan.seed).between(first), plan.schedule(name)
        points = every_step(schedule, most=400)
        losses.plot(curve.steps, curve.loss, "k.", markersize=4, label="trained")
        for index, (law, fit) in enumerate(fits.items()):
            losses.plot(points.steps, fit.predict(points), color=f"C{index}", linewidth=1, label=law)
            errors.plot(curve.steps, 100 * (fit.predict(curve) / curve.loss - 1), color=f"C{index}", linewidth=1)
        errors.axhspan(-100 * bound, 100 * bound, color="0.9")
        lrs.plot(schedule.lr, color="black", linewidth=1)
        losses.set_title(f"{name} ({'fitted' if name in fitted else 'predicted before it was trained'})", fontsize=9)
        lrs.set_xlabel("step")
    lowest = [plan.curve(name, plan.seed).between(first).loss.min() for name in runs]
    axes[0, 0].set(ylabel="held-out loss", ylim=(min(lowest) - 0.03, max(lowest) + 0.35))
    axes[0, 0].legend(fontsize=7)
    axes[1, 0].set(ylabel="forecast over fact - 1, %", ylim=(-2, 2))
    axes[2, 0].set_ylabel("lr")
    return figure


def _chosen(plan: Plan, seeds: Sequence[int]) -> Figure:
    """Draws the lr of both schedules, and the losses of every seed below."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    lrs, losses = figure.subplots(2, 1, sharex=True)
    ends = []
    for index, name in enumerate(("cosine", "chosen")):
        lrs.plot(plan.schedule(name).lr, color=f"C{index}", label=name)
        for seed in seeds:
            curve = plan.curve(name, seed).between(plan.first_fitted_step)
            losses.plot(curve.steps, curve.loss, color=f"C{index}", linewidth=1, label=f"{name}, seed {seed}")
            ends.append(float(curve.loss[-1]))
    lrs.set(ylabel="lr", title="the schedule that the law chose, and cosine")
    lrs.legend()
    losses.set(ylabel="held-out loss", xlabel="step", ylim=(min(ends) - 0.02, max(ends) + 0.25))
    losses.legend(fontsize=7)
    return figure
