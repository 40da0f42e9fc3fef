"""Which runs to add: against brute force by new fits, and by what must hold."""

import numpy as np
import pytest
from made_ladder import JOINT, TRUE_JOINT, ladder, run

from laws.fitting.design import best_additions, candidate_run, half_width
from laws.fitting.fitted import Fit, fit_curves
from laws.loss_curves.horizon import HorizonConfig
from laws.loss_curves.joint import JointConfig
from settings import UserError


@pytest.fixture(scope="module")
def fit() -> Fit:
    noisy = [run(JOINT, TRUE_JOINT, curve.schedule.steps, curve.parameters or 0, noise=1e-3) for curve in ladder()]
    return fit_curves(JointConfig(), noisy, samples=100)


def test_a_candidate_is_like_the_fitted_runs(fit: Fit) -> None:
    made = candidate_run(fit, parameters=1e8, tokens=1e8)
    assert made.batch_tokens == pytest.approx(4 * 1e4, rel=1e-6)  # the batch of the runs is 4 sqrt(N)
    assert made.end.schedule.steps == 2500
    assert made.end.schedule.lr[-1] == pytest.approx(0.1, rel=0.01)  # of the peak
    assert made.flops == pytest.approx(6e16)


def test_added_runs_shorten_the_interval_and_more_so_near_the_target(fit: Fit) -> None:
    target = candidate_run(fit, parameters=1e9, tokens=2e10)
    candidates = [candidate_run(fit, parameters=size, tokens=20 * size) for size in (2e7, 2e8, 5e8)]
    single = best_additions(fit, target, candidates, most=1)
    assert single[0].runs[0].parameters == 5e8
    assert all(each.half_width < half_width(fit, target) for each in single)
    pairs = best_additions(fit, target, candidates, most=2)
    assert len(pairs) == 6
    assert pairs[0].half_width <= single[0].half_width
    cheap = best_additions(fit, target, candidates, most=2, budget_flops=single[0].flops * 0.9)
    assert all(each.flops <= single[0].flops * 0.9 for each in cheap)
    with pytest.raises(UserError, match="no candidate costs at most 1 FLOPs"):
        best_additions(fit, target, candidates, budget_flops=1)


def test_the_order_is_that_of_fits_with_the_runs_added(fit: Fit) -> None:
    """The run that promises the shorter interval also gives it when it is trained and fitted."""
    target = candidate_run(fit, parameters=1e9, tokens=2e10)
    near, far = (candidate_run(fit, parameters=size, tokens=length * size) for size, length in ((5e8, 20), (2e7, 10)))
    promised = [best_additions(fit, target, [each])[0].half_width for each in (near, far)]
    curves = [run(JOINT, TRUE_JOINT, curve.schedule.steps, curve.parameters or 0, noise=1e-3) for curve in ladder()]
    widths = []
    for each in (near, far):
        added = run(JOINT, TRUE_JOINT, each.end.schedule.steps, each.parameters, noise=1e-3)
        low, high = fit_curves(JointConfig(), [*curves, added], samples=100).band(target.end)
        widths.append(float(np.log(high[0] / low[0])) / 2)
    assert promised[0] < promised[1]
    assert widths[0] < widths[1]


def test_a_design_needs_a_law_over_sizes() -> None:
    one_size = [curve for curve in ladder() if curve.parameters == 2e7]
    with pytest.raises(UserError, match="fit runs of several sizes with --law joint"):
        candidate_run(fit_curves(HorizonConfig(), one_size, samples=0), parameters=1e8, tokens=1e9)
