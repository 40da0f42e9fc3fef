"""The probability of an order, and how often small runs decide as large ones do."""

import numpy as np
import pytest
from scipy.stats import norm

from laws.curve import LrCurve, last_step
from laws.fitting.decision import decision_accuracy, probability_lower
from laws.fitting.fitted import Fit
from laws.loss_curves.annealing import AnnealingConfig
from settings import UserError

VALUES = {"L0": 2.6, "A": 0.5, "C": 0.5, "alpha": 0.5}
CONSTANT = last_step(LrCurve(np.full(4000, 3e-4)))
DECAYED = last_step(LrCurve(np.concatenate([np.full(2000, 3e-4), np.linspace(3e-4, 0, 2000)])))


def fit(spread: float, noise: float = 1e-3) -> Fit:
    rng = np.random.default_rng(0)
    theta = AnnealingConfig().pack(VALUES)
    samples = theta + rng.normal(size=(500, 4)) * spread * theta * np.array([1.0, 0, 0, 0])  # L0 alone
    law = AnnealingConfig()
    return Fit(
        law=law, values=VALUES, objective=0, noise=noise, law_error=0, samples=tuple(map(tuple, samples.tolist()))
    )


def test_what_both_runs_share_decides_nothing() -> None:
    """The lr decays: its loss is lower. The spread of L0 moves both runs, so it hardly counts."""
    sure = probability_lower(fit(spread=1e-2), DECAYED, CONSTANT)
    assert sure > 0.999
    assert probability_lower(fit(spread=1e-2), CONSTANT, DECAYED) == pytest.approx(1 - sure)
    assert probability_lower(fit(spread=1e-2), CONSTANT, CONSTANT) == pytest.approx(0.5)


def test_the_probability_is_that_of_independent_noise() -> None:
    exact = fit(spread=0.0, noise=0.02)
    difference = np.log(exact.predict(DECAYED)[0] / exact.predict(CONSTANT)[0])
    assert probability_lower(exact, DECAYED, CONSTANT) == pytest.approx(norm.cdf(-difference / (0.02 * np.sqrt(2))))
    with pytest.raises(UserError, match="bootstrap samples"):
        probability_lower(exact.model_copy(update={"samples": ()}), DECAYED, CONSTANT)


def test_decisions_and_skill() -> None:
    large = {"a": 3.00, "b": 2.99, "c": 2.95}
    found = decision_accuracy({"a": 3.50, "b": 3.51, "c": 3.40}, large)
    assert (found.pairs, found.agreed) == (3, 2)
    assert found.share == pytest.approx(2 / 3)
    scaled = decision_accuracy({name: 1.2 * loss for name, loss in large.items()}, large)  # a common offset
    assert (scaled.agreed, scaled.skill) == (3, pytest.approx(0, abs=1e-9))
    with pytest.raises(UserError, match="same recipes"):
        decision_accuracy({"a": 3.0}, large)
