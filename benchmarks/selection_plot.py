"""The plot of selection_report.py: differences to random on each target, and losses by kept share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from selection_findings import Findings
from selection_plan import MAIN, RANDOM, SHARES, TARGETS, Selection
from selection_statistics import NOT_TOLD_APART


def draw(findings: Findings, path: Path) -> None:
    """Draws a row for each target: the arms on the left, the kept shares on the right."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    for (left, right), target in zip(figure.subplots(len(TARGETS), 2), TARGETS, strict=True):
        _draw_arms(left, findings, target)
        _draw_shares(right, findings, target)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})


def _draw_arms(plot: Axes, findings: Findings, target: str) -> None:
    arms, random = findings.compared(target), RANDOM
    plot.set(title=f"{target}: held-out loss minus random, {MAIN}% kept", xlabel="nats a token; lower is better")
    if arms is None or random not in arms:
        return
    shown = sorted((arm for arm in findings.main_arms(target) if arm in arms), key=arms.mean, reverse=True)
    differences = [arms.difference(arm, random) for arm in shown]
    errors = [
        0.0 if arm == random else NOT_TOLD_APART * each.standard_error
        for arm, each in zip(shown, differences, strict=True)
    ]
    plot.errorbar([each.mean for each in differences], range(len(shown)), xerr=errors, fmt="o", capsize=4)
    plot.set_yticks(range(len(shown)), [arm.arm for arm in shown])
    plot.axvline(0, color="0.6", linewidth=1)


def _draw_shares(plot: Axes, findings: Findings, target: str) -> None:
    plot.set(title=f"{target}: kept share", xlabel="percent of the pool", ylabel="held-out loss", xscale="log")
    plot.set_xticks(SHARES, [str(percent) for percent in SHARES])
    plot.minorticks_off()
    for number, arm in enumerate(("random", "zipfit", "classifier")):
        losses = {
            percent: findings.losses(Selection(arm, percent, None if arm == "random" else target), target)
            for percent in SHARES
        }
        whole = {percent: list(own.values()) for percent, own in losses.items() if own}
        if whole:
            plot.plot(list(whole), [np.mean(own) for own in whole.values()], ".-", color=f"C{number}", label=arm)
            for percent, own in whole.items():
                plot.plot([percent] * len(own), own, ".", color=f"C{number}", alpha=0.4)
    if plot.lines:
        plot.legend()
