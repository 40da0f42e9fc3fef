"""The relaxation law against its sum written out, and on public curves it was not fitted on."""

from pathlib import Path

import numpy as np
import pytest
from public_curves import FITTED, held_out_errors, public_curve

from laws.curve import EvaluationPoints, LrCurve, every_step, planned_lr_curve
from laws.fitting.fitted import fit_curves
from laws.loss_curves.relaxation import RelaxationConfig
from schedules.base import SCHEDULES

VALUES = {"L0": 2.67, "A": 0.53, "B": 0.2, "alpha": 0.5, "C": 0.02}


def written_out(schedule: LrCurve, steps: np.ndarray) -> np.ndarray:
    u = schedule.lr / 3e-4
    losses = []
    for count in steps:
        relaxed = 0.0
        for k in range(count):
            drop = (u[k - 1] ** 0.8 if k else 0.0) - u[k] ** 0.8
            relaxed += drop * (1 - (1 + VALUES["C"] * (u[k:count] ** 0.35).sum()) ** -0.5)
        s = 3e-4 * (u[:count] ** 0.85).sum()
        losses.append(VALUES["L0"] + VALUES["A"] * s ** -VALUES["alpha"] - VALUES["B"] * s**-0.1 * relaxed)
    return np.array(losses)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "constant"])
def test_groups_of_falls_are_the_sum(name: str) -> None:
    section: dict[str, object] = {"name": name, "warmup_steps": 60}
    if name != "constant":
        section["min_lr"] = 3e-5
    schedule = planned_lr_curve(SCHEDULES.parse(section), peak_lr=3e-4, total_steps=800)
    points = every_step(schedule, most=10)
    got = RelaxationConfig().predict(VALUES, points)
    np.testing.assert_allclose(got, written_out(schedule, points.steps), rtol=3e-5)


def test_jumps_and_rewarming() -> None:
    schedule = LrCurve(np.concatenate([np.full(300, 3e-4), np.full(200, 9e-5), np.full(200, 2e-4)]))
    steps = np.array([100, 300, 301, 350, 500, 501, 600, 700])
    got = RelaxationConfig().predict(VALUES, EvaluationPoints(schedule, steps))
    np.testing.assert_allclose(got, written_out(schedule, steps), rtol=1e-6)


@pytest.mark.parametrize(("size", "most"), [("25M", 0.00095), ("100M", 0.0008)])
def test_public_curves_not_fitted_on(loss_curves: Path, size: str, most: float) -> None:
    """Well below the Multi-Power Law's (0.166% and 0.179%) and the annealing law's (0.164% and 0.181%)."""
    fit = fit_curves(RelaxationConfig(), [public_curve(loss_curves, size, name) for name in FITTED], samples=0)
    assert held_out_errors(fit, loss_curves, size).mean() < most
