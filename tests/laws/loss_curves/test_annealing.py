"""The annealing law against its definition, its authors' points and public curves."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from public_curves import FITTED, held_out_errors, public_curve

from laws.curve import EvaluationPoints, LossCurve, LrCurve, planned_lr_curve
from laws.fitting.fitted import fit_curves
from laws.loss_curves.annealing import AnnealingConfig, area_of_annealing
from schedules.base import SCHEDULES
from settings import UserError

# The authors' published points (arXiv 2408.11029): 20k steps, peak 2e-4 to 0, warm-up 500, a loss every 1000 steps.
COSINE_LOSSES = [
    3.6696358, 3.3254106, 3.1908393, 3.1158533, 3.0604768, 3.020384, 2.9880967, 2.9612265, 2.9395165, 2.9195616,
    2.9030452, 2.8881907, 2.8767889, 2.8654318, 2.8565135, 2.8489892, 2.843639, 2.8398669, 2.8380618, 2.8376071,
]  # fmt: skip
CONSTANT_LOSSES = [
    3.6714418, 3.325626, 3.1884103, 3.111947, 3.058354, 3.0211415, 2.9874816, 2.96082, 2.9406552, 2.9241402,
    2.9054413, 2.8942103, 2.8807929, 2.8702695, 2.862175, 2.8530996, 2.8448784, 2.8383856, 2.8326995, 2.8294308,
]  # fmt: skip


def authors_curves() -> list[LossCurve]:
    steps = np.arange(1000, 20001, 1000)
    curves = []
    for name, losses in (("cosine", COSINE_LOSSES), ("constant", CONSTANT_LOSSES)):
        config = SCHEDULES.parse({"name": name, "warmup_steps": 500})
        schedule = planned_lr_curve(config, peak_lr=2e-4, total_steps=20000)
        curves.append(LossCurve(schedule, steps, loss=np.array(losses), name=name))
    return curves


def test_the_authors_points_give_the_authors_parameters() -> None:
    fit = fit_curves(AnnealingConfig(warmup="peak", decay=0.999), authors_curves(), samples=0)
    expected = {"L0": 2.628, "A": 0.430, "alpha": 0.550, "C": 0.411}
    assert fit.values == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("decay", "c"), [(0.99, 3.92), (0.995, 1.97), (0.9995, 0.22)])
def test_c_goes_with_one_minus_lambda(decay: float, c: float) -> None:
    fit = fit_curves(AnnealingConfig(warmup="peak", decay=decay), authors_curves(), samples=0)
    assert fit.values["C"] == pytest.approx(c, rel=0.01)


def double_sum(lr: np.ndarray, warmup: int, decay: float) -> np.ndarray:
    """S2 by its definition: sum over i <= s of the sum over k <= i of (lr_{k-1} - lr_k) lambda^(i - k)."""
    drops = np.array([0.0] + [lr[k - 1] - lr[k] if k >= warmup else 0.0 for k in range(1, len(lr))])
    momentum = [sum(drops[k] * decay ** (i - k) for k in range(i + 1)) for i in range(len(lr))]
    return np.cumsum(momentum)


@settings(max_examples=30, deadline=None)
@given(
    lr=st.lists(st.floats(0, 1e-2), min_size=2, max_size=40).filter(lambda values: max(values) > 0),
    warmup=st.integers(0, 5),
    decay=st.floats(0.1, 0.9999),
)
def test_the_filter_is_the_double_sum(lr: list[float], warmup: int, decay: float) -> None:
    schedule = LrCurve(np.array(lr), min(warmup, len(lr)))
    expected = double_sum(schedule.lr, schedule.warmup_steps, decay)
    np.testing.assert_allclose(area_of_annealing(schedule, decay), expected, rtol=1e-9, atol=1e-15)


def test_one_drop_in_closed_form() -> None:
    lr = np.full(30000, 3e-4)
    lr[10000:] = 1e-4
    s2 = area_of_annealing(LrCurve(lr), 0.999)
    after = np.arange(10000, 30000)
    np.testing.assert_allclose(s2[after], 2e-4 * (1 - 0.999 ** (after - 10000 + 1.0)) / 0.001, rtol=1e-9)
    assert s2[-1] == pytest.approx(1000 * 2e-4, rel=1e-6)
    assert np.all(s2[:10000] == 0)


def test_rewarming_raises_the_loss() -> None:
    lr = np.full(6000, 1e-4)
    lr[4000:] = 3e-4
    law, values = AnnealingConfig(), {"L0": 3.0, "A": 0.5, "C": 0.4, "alpha": 0.5}
    kept = law.predict(values, EvaluationPoints(LrCurve(np.full(6000, 1e-4)), np.array([6000])))
    raised = law.predict(values, EvaluationPoints(LrCurve(lr), np.array([6000])))
    only_s1 = law.predict({**values, "C": 0.0}, EvaluationPoints(LrCurve(lr), np.array([6000])))
    assert raised[0] > only_s1[0] + 0.05
    assert kept[0] > only_s1[0]  # progress alone would have gained


def test_both_conventions_of_warmup() -> None:
    schedule = planned_lr_curve(
        SCHEDULES.parse({"name": "constant", "warmup_steps": 100}), peak_lr=1e-3, total_steps=200
    )
    values = {"L0": 0.0, "A": 1.0, "C": 0.0, "alpha": 1.0}
    at = EvaluationPoints(schedule, np.array([200]))
    assert 1 / AnnealingConfig(warmup="peak").predict(values, at)[0] == pytest.approx(0.2)
    assert 1 / AnnealingConfig(warmup="actual").predict(values, at)[0] == pytest.approx(0.1 + 1e-3 * 50.5)


@pytest.mark.parametrize(
    ("size", "table", "most"),
    [
        ("25M", {"L0": 3.158, "A": 0.514, "alpha": 0.513, "C": 0.402}, 0.0016),
        ("100M", {"L0": 2.789, "A": 0.593, "alpha": 0.455, "C": 0.481}, 0.0018),
    ],
)
def test_public_curves_not_fitted_on(loss_curves: Path, size: str, table: dict[str, float], most: float) -> None:
    curves = [public_curve(loss_curves, size, name) for name in FITTED]
    fixed = fit_curves(AnnealingConfig(), curves, samples=0)
    assert fixed.values == pytest.approx(table, rel=0.005)
    assert round(held_out_errors(fixed, loss_curves, size).mean(), 4) <= most
    free = fit_curves(AnnealingConfig(fit_decay=True), curves, samples=0)
    assert free.objective < fixed.objective
    assert held_out_errors(free, loss_curves, size).mean() <= most


def test_a_constant_curve_alone_is_refused() -> None:
    constant = authors_curves()[1]
    with pytest.raises(UserError, match="constant after the warm-up in every curve"):
        fit_curves(AnnealingConfig(), [constant])
