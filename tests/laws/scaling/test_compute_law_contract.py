"""The contract of every registered law of final losses: true slopes, and losses that a fit recovers."""

import numpy as np
import pytest

from laws.fitting.solver import fit_points
from laws.scaling.laws import COMPUTE_LAWS, ComputeLaw, Runs

EXAMPLES = [law for name in COMPUTE_LAWS.names() for law in COMPUTE_LAWS[name].examples()]


@pytest.fixture(params=EXAMPLES, ids=repr)
def law(request: pytest.FixtureRequest) -> ComputeLaw:
    found: ComputeLaw = request.param
    return found


def runs(count: int = 40, seed: int = 0) -> Runs:
    """Runs that differ in size, tokens, batch and epochs."""
    rng = np.random.default_rng(seed)
    parameters, tokens = 10 ** rng.uniform(7.6, 9.6, size=count), 10 ** rng.uniform(9, 11, size=count)
    batch, unique = 10 ** rng.uniform(4.5, 6.5, size=count), tokens / rng.choice([1, 1, 3, 10, 40], size=count)
    return Runs(parameters, tokens, np.full(count, 3.0), batch, unique)


def typical(law: ComputeLaw, data: Runs) -> np.ndarray:
    """A loss of about 3: most of it from the first term."""
    shape = np.array([shape.grid[len(shape.grid) // 2] for shape in law.shapes()])
    phi = law.terms_of_losses(shape[None], law.features(data), data.loss)[0]
    share = np.array([2.0] + [1.0 / max(phi.shape[1] - 1, 1)] * (phi.shape[1] - 1))
    return np.concatenate([share / phi.mean(axis=0), shape])


def test_slopes_are_those_of_the_loss(law: ComputeLaw) -> None:
    data = runs()
    law = law.suited(data)
    theta, features = typical(law, data), law.features(data)
    _, slope = law.evaluate(theta[None], features)
    for index in range(theta.size):
        step = np.zeros_like(theta)
        step[index] = 1e-5 * abs(theta[index]) if theta[index] else 1e-6
        above, below = (law.evaluate((theta + sign * step)[None], features)[0][0] for sign in (1, -1))
        numeric = (above - below) / (2 * step[index])
        np.testing.assert_allclose(slope[0, :, index], numeric, rtol=1e-5, atol=1e-7 * np.abs(numeric).max())


def test_the_losses_of_a_noiseless_law_come_back(law: ComputeLaw) -> None:
    """Between the fitted runs too, also where the data do not determine every parameter."""
    data, between = runs(), runs(seed=1)
    law.check(data)
    law = law.suited(data)
    theta = typical(law, data)
    truth, _ = law.evaluate(theta[None], law.features(data))
    found = fit_points(law, law.features(data), truth[0], priors=False)
    again, fresh = (law.evaluate(each[None], law.features(between))[0][0] for each in (found.theta_p, theta))
    np.testing.assert_allclose(again, fresh, rtol=2e-4)
    assert found.objective < 1e-7


def test_many_parameter_sets_at_once_are_each_alone(law: ComputeLaw) -> None:
    data = runs()
    law = law.suited(data)
    theta, features = typical(law, data), law.features(data)
    several = np.stack([theta, theta * 1.01, theta * 0.99])
    together, slopes = law.evaluate(several, features)
    for index, each in enumerate(several):
        alone, slope = law.evaluate(each[None], features)
        np.testing.assert_allclose(together[index], alone[0], rtol=1e-12)
        np.testing.assert_allclose(slopes[index], slope[0], rtol=1e-9)
