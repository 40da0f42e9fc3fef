"""The allowance for a law's miss grows with the horizon, and for a lone fitted curve with the distance of schedules."""

from pathlib import Path

import numpy as np
import pytest
from public_curves import FITTED, HELD_OUT, public_curve

from laws.curve import EvaluationPoints, LrCurve
from laws.fitting.fitted import fit_curves
from laws.fitting.law_error import law_error_growth, lr_shape
from laws.loss_curves.relaxation import RelaxationConfig

CONSTANT = LrCurve(np.full(8000, 3e-4))
HALF = LrCurve(np.concatenate([np.full(4000, 3e-4), np.full(4000, 0.0)]))


def test_the_allowance_grows_with_the_horizon_alone_if_there_are_several_curves() -> None:
    points = EvaluationPoints(CONSTANT, np.array([1000, 2000, 8000]))
    shapes = [lr_shape(HALF, 8000), lr_shape(HALF, 4000)]
    growth = law_error_growth(points, fitted_steps=[1000, 2000], fitted_shapes=shapes)
    assert growth == pytest.approx([1, 1, np.hypot(1, 1.5 * np.log(4))])
    assert law_error_growth(points, fitted_steps=[], fitted_shapes=[]) == pytest.approx([1, 1, 1])


def test_the_allowance_of_a_lone_curve_grows_with_the_distance_of_the_schedules() -> None:
    points = EvaluationPoints(HALF, np.array([4000, 8000]))
    lone = [lr_shape(CONSTANT, 8000)]
    growth = law_error_growth(points, fitted_steps=[8000], fitted_shapes=lone)
    assert growth == pytest.approx([1, np.hypot(1, 6 * np.sqrt(0.5))])
    assert law_error_growth(points, fitted_steps=[8000], fitted_shapes=[()]) == pytest.approx([1, 1])
    scaled = EvaluationPoints(LrCurve(HALF.lr * 30), points.steps)
    assert law_error_growth(scaled, fitted_steps=[8000], fitted_shapes=lone) == pytest.approx(growth)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["25M", "100M"])
@pytest.mark.parametrize("alone", ["cosine_24000", "cosine_72000"])
def test_a_lone_cosine_holds_the_losses_of_other_schedules(loss_curves: Path, size: str, alone: str) -> None:
    """At least 86% of all losses of each other curve, the last among them."""
    fit = fit_curves(RelaxationConfig(), [public_curve(loss_curves, size, alone)], samples=60)
    for name in (*FITTED, *HELD_OUT):
        if name != alone:
            curve = public_curve(loss_curves, size, name).after_warmup()
            low, high = fit.band(curve)
            inside = (low <= curve.loss) & (curve.loss <= high)
            assert inside[-1], name
            assert inside.mean() >= 0.86, name
