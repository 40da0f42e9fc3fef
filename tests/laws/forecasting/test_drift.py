"""The drift alarm: false alarms are rare, breaks are found at once, each excursion is reported once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from laws.curve import Floats
from laws.forecasting.drift import FAR, IN_A_ROW, DriftDetector
from laws.forecasting.prediction import Prediction

BAND = Prediction(3.0, 3.0 * math.exp(-0.005), 3.0 * math.exp(0.005))
SIGMA = 0.005 / 1.6448536  # of a loss that the 90% band of BAND supposes


def flagged(facts_rk: Floats) -> float:
    """The share of runs [r, k] that the detector flags."""
    count = 0
    for facts in facts_rk:
        detector = DriftDetector()
        count += any(detector.see(step, float(fact), BAND) is not None for step, fact in enumerate(facts, 1))
    return count / len(facts_rk)


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_false_alarms_are_rare_in_100_losses(shared: float) -> None:
    """Gaussian deviations of the size that the band supposes: independent, all the same along a run, and half each."""
    rng = np.random.default_rng(5)
    of_run, of_loss = rng.normal(size=(4000, 1)), rng.normal(size=(4000, 100))
    facts = 3.0 * np.exp(SIGMA * (math.sqrt(shared) * of_run + math.sqrt(1 - shared) * of_loss))
    assert flagged(facts) < 1 / 60 + 2 * math.sqrt(1 / 60 / 4000)


def test_correlated_noise_raises_few_alarms() -> None:
    rng = np.random.default_rng(6)
    noise = np.zeros((2000, 100))
    for loss in range(100):
        before = noise[:, loss - 1] if loss else rng.normal(size=2000)
        noise[:, loss] = 0.6 * before + 0.8 * rng.normal(size=2000)
    assert flagged(3.0 * np.exp(SIGMA * noise)) < 0.05


@pytest.mark.parametrize(("jump", "within"), [(0.03, 1), (0.012, 4)])
def test_a_break_is_found_when_it_comes(jump: float, within: int) -> None:
    """The runs have noise of a third of the band, and jump up or down after 50 losses."""
    rng = np.random.default_rng(7)
    found = 0
    for run in range(400):
        facts = 3.0 * np.exp(SIGMA / 3 * rng.normal(size=100))
        facts[50:] *= 1 + (jump if run % 2 else -jump)
        detector = DriftDetector()
        steps = [step for step, fact in enumerate(facts, 1) if detector.see(step, float(fact), BAND) is not None]
        found += bool(steps) and 51 <= steps[0] < 51 + within
    assert found >= 0.99 * 400


def test_each_excursion_is_reported_once() -> None:
    detector = DriftDetector()
    far, near, within = (3.0 * math.exp(0.005 * size) for size in (FAR + 0.1, 1.2, 0.3))
    assert detector.see(1, within, BAND) is None
    event = detector.see(2, far, BAND)
    assert event is not None
    assert event.step == 2
    assert event.error == pytest.approx(far / 3.0 - 1)
    assert [detector.see(step, far, BAND) for step in range(3, 6)] == [None] * 3
    assert [detector.see(step, near, BAND) for step in range(6, 10)] == [None] * 4
    assert detector.outside
    for step in range(10, 10 + IN_A_ROW):
        assert detector.outside
        detector.see(step, within, BAND)
    assert not detector.outside
    assert detector.see(20, 3.0 * math.exp(-0.02), BAND) is not None


def test_losses_on_both_sides_are_noise_and_on_one_side_are_not() -> None:
    above, below = 3.0 * math.exp(0.009), 3.0 * math.exp(-0.009)
    detector = DriftDetector()
    assert all(detector.see(step, fact, BAND) is None for step, fact in enumerate([above, above, below, below, above]))
    detector = DriftDetector()
    assert [detector.see(step, below, BAND) is not None for step in range(3)] == [False, False, True]


@pytest.mark.parametrize("fact", [math.nan, math.inf, 0.0, -1.0])
def test_a_loss_that_is_none_is_flagged_at_once(fact: float) -> None:
    assert DriftDetector().see(1, fact, BAND) is not None
