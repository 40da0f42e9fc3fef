"""The contract of every registered law: true slopes, parameters that a fit recovers, and schedules that it can rate."""

from collections.abc import Iterator

import numpy as np
import pytest

from laws.curve import EvaluationPoints, LossCurve, LrCurve, every_step, last_step, planned_lr_curve
from laws.fitting.solver import fit_points
from laws.law import LAWS, CurveLaw
from schedules.base import SCHEDULES

EXAMPLES = [law for name in LAWS.names() for law in LAWS[name].examples()]


@pytest.fixture(params=EXAMPLES, ids=repr)
def law(request: pytest.FixtureRequest) -> CurveLaw:
    found: CurveLaw = request.param
    return found


def schedules() -> Iterator[LrCurve]:
    for section in (
        {"name": "cosine", "warmup_steps": 100, "min_lr": 3e-5},
        {"name": "constant", "warmup_steps": 100},
        {"name": "wsd", "warmup_steps": 100, "decay_steps": 900, "min_lr": 3e-5, "tail": "linear"},
    ):
        yield planned_lr_curve(SCHEDULES.parse(section), peak_lr=3e-4, total_steps=4000)
    lr = np.concatenate([np.full(2000, 3e-4), np.full(1000, 6e-5), np.full(1000, 2e-4)])
    yield LrCurve(lr)  # a jump, and a re-warming


def points() -> list[EvaluationPoints]:
    sizes = [2e7, 1e8, 5e8, 2e9]
    return [
        every_step(each, most=40, parameters=size, batch_tokens=size**0.5)
        for each, size in zip(schedules(), sizes, strict=True)
    ]


def typical(law: CurveLaw) -> np.ndarray:
    """A loss of about 3: 2.7 left, some progress, and 0.1 from annealing."""
    shape = np.array([shape.grid[len(shape.grid) // 2] for shape in law.shapes()])
    phi, _ = law.terms(shape[None], law.features(points()))
    size = np.abs(phi[0]).max(axis=0)
    scale = {1: 0.4, -1: 0.1}
    values = [2.7] + [scale[c.sign] / size[i] for i, c in enumerate(law.coefficients()) if i]
    return np.concatenate([values, shape])


def test_slopes_are_those_of_the_loss(law: CurveLaw) -> None:
    theta, features = typical(law), law.features(points())
    _, slope = law.evaluate(theta[None], features)
    for index, name in enumerate(law.parameter_names()):
        step = np.zeros_like(theta)
        step[index] = 1e-5 * theta[index] if theta[index] else 1e-6
        above, _ = law.evaluate((theta + step)[None], features)
        below, _ = law.evaluate((theta - step)[None], features)
        numeric = (above[0] - below[0]) / (2 * step[index])
        largest = np.abs(numeric).max()
        np.testing.assert_allclose(slope[0, :, index], numeric, rtol=1e-4, atol=2e-6 * largest + 1e-12, err_msg=name)


def test_many_parameter_sets_at_once_are_each_alone(law: CurveLaw) -> None:
    theta, features = typical(law), law.features(points())
    several = np.stack([theta, theta * 1.01, theta * 0.99])
    together, slopes = law.evaluate(several, features)
    for index, each in enumerate(several):
        alone, slope = law.evaluate(each[None], features)
        np.testing.assert_allclose(
            together[index], alone[0], rtol=1e-6
        )  # a law may interpolate between many parameter sets
        scale = np.abs(slope[0]).max(axis=0)
        np.testing.assert_allclose(slopes[index] / scale, slope[0] / scale, atol=1e-3)


def test_the_parameters_of_a_noiseless_law_come_back(law: CurveLaw) -> None:
    theta, features = typical(law), law.features(points())
    truth, _ = law.evaluate(theta[None], features)
    found = fit_points(law, features, truth[0], priors=False)
    again, _ = law.evaluate(found.theta_p[None], features)
    np.testing.assert_allclose(again, truth, rtol=2e-4)
    assert found.objective < 1e-6


def test_the_price_of_a_schedule_is_its_prediction(law: CurveLaw) -> None:
    theta = typical(law)
    values = dict(zip(law.parameter_names(), theta.tolist(), strict=True))
    for schedule in schedules():
        loss, _ = law.end_loss(theta, schedule, 1e8)
        assert loss == pytest.approx(law.predict(values, last_step(schedule, parameters=1e8))[0], rel=1e-4)


def test_the_slope_by_the_schedule(law: CurveLaw) -> None:
    theta = typical(law)
    rng = np.random.default_rng(0)
    for schedule in schedules():
        start = max(schedule.warmup_steps, 1) + 50  # the peak itself stays: it is a maximum, without a slope
        below = np.where(np.arange(schedule.steps) >= start, schedule.lr * 0.9, schedule.lr)
        towards = np.zeros(schedule.steps)
        towards[start:] = rng.normal(size=schedule.steps - start) * 1e-9
        _, slope = law.end_loss(theta, LrCurve(below, schedule.warmup_steps), 1e8)
        above, _ = law.end_loss(theta, LrCurve(below + towards, schedule.warmup_steps), 1e8)
        under, _ = law.end_loss(theta, LrCurve(below - towards, schedule.warmup_steps), 1e8)
        assert (above - under) / 2 == pytest.approx(slope() @ towards, rel=1e-3, abs=1e-11)


def test_laws_are_sensible_far_out(law: CurveLaw) -> None:
    """Lower for longer; finite for an lr that drops to 0."""
    theta = typical(law)
    values = dict(zip(law.parameter_names(), theta.tolist(), strict=True))
    ends = []
    for steps in (4000, 12000, 40000):
        schedule = planned_lr_curve(
            SCHEDULES.parse({"name": "cosine", "warmup_steps": 100}), peak_lr=3e-4, total_steps=steps
        )
        ends.append(float(law.predict(values, last_step(schedule, parameters=1e8))[0]))
    assert np.all(np.isfinite(ends))
    assert ends[0] > ends[1] > ends[2]


def test_a_curve_of_another_shape_is_refused() -> None:
    from settings import UserError

    schedule = LrCurve(np.full(10, 1e-3))
    with pytest.raises(UserError, match="steps must ascend"):
        EvaluationPoints(schedule, np.array([11]))
    with pytest.raises(UserError, match="positive and finite"):
        LossCurve(schedule, np.array([1, 2]), loss=np.array([1.0, np.nan]))
    with pytest.raises(UserError, match="3 losses for 2 steps"):
        LossCurve(schedule, np.array([1, 2]), loss=np.array([1.0, 2.0, 3.0]))
