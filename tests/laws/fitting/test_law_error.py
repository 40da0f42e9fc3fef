"""The allowance for a law's miss grows with the horizon, and for a lone fitted curve with the distance of schedules."""

from pathlib import Path

import numpy as np
import pytest
from bench_law_error import Table, misses, public_models
from public_curves import FITTED, HELD_OUT, public_curve

from laws.curve import EvaluationPoints, LrCurve
from laws.fitting.fitted import LAW_ERROR, fit_curves
from laws.fitting.law_error import LONE_SHAPE, law_error_growth, lr_shape
from laws.law import CurveLaw
from laws.loss_curves.relaxation import RelaxationConfig

CONSTANT = LrCurve(np.full(8000, 3e-4))
HALF = LrCurve(np.concatenate([np.full(4000, 3e-4), np.full(4000, 0.0)]))


def test_the_allowance_grows_with_the_horizon_alone_if_there_are_several_curves() -> None:
    points = EvaluationPoints(CONSTANT, np.array([1000, 2000, 8000]))
    shapes = [lr_shape(HALF, 8000), lr_shape(HALF, 4000)]
    growth = law_error_growth(points, fitted_steps=[1000, 2000], fitted_shapes=shapes, by_horizon=2.25)
    assert growth == pytest.approx([1, 1, np.hypot(1, 2.25 * np.log(4))])
    assert law_error_growth(points, fitted_steps=[], fitted_shapes=[], by_horizon=2.25) == pytest.approx([1, 1, 1])


def test_the_allowance_of_a_lone_curve_grows_with_the_distance_of_the_schedules() -> None:
    points = EvaluationPoints(HALF, np.array([4000, 8000]))
    lone = [lr_shape(CONSTANT, 8000)]
    growth = law_error_growth(points, fitted_steps=[8000], fitted_shapes=lone, by_horizon=2.25)
    assert growth == pytest.approx([1, np.hypot(1, 6 * np.sqrt(0.5))])
    assert law_error_growth(points, fitted_steps=[8000], fitted_shapes=[()], by_horizon=2.25) == pytest.approx([1, 1])
    scaled = EvaluationPoints(LrCurve(HALF.lr * 30), points.steps)
    assert law_error_growth(scaled, fitted_steps=[8000], fitted_shapes=lone, by_horizon=2.25) == pytest.approx(growth)


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


@pytest.mark.slow
def test_bands_hold_the_last_losses_of_public_runs(loss_curves: Path) -> None:
    """Fits of one, two or three curves of a model hold at least 86% of over 200 last losses of the other curves."""
    found = [
        miss
        for model, curves in public_models(loss_curves).items()
        for miss in misses(RelaxationConfig(), model, curves, choices=4, samples=40)
    ]
    assert len(found) >= 200
    assert Table(found).held((LAW_ERROR, CurveLaw.error_by_horizon, LONE_SHAPE)).mean() >= 0.86
