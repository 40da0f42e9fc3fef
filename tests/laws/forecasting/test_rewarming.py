"""Forecasts of runs whose lr rises again: a rise is negative annealing (S2 of arXiv 2408.11029)."""

from __future__ import annotations

import numpy as np
import pytest
from test_forecasts import ANNEALING, PEAK, noisy_run, progress, schedule

from laws.curve import LrCurve
from laws.fitting.fitted import fit_curves
from laws.forecasting.fixed_fit_forecast import FixedFitForecast
from laws.forecasting.prediction import Prediction, RunProgress
from laws.forecasting.refitted_forecast import RefittedForecast
from laws.loss_curves.annealing import AnnealingConfig
from schedules.base import SCHEDULES
from schedules.stages import in_sequence, rewarmed


def test_a_rise_takes_back_the_annealing_of_a_drop_in_closed_form() -> None:
    """1000 steps at the peak, 1000 at a tenth, 1000 at the peak: the drop and the rise of 0.9 of the peak."""
    runs = [
        noisy_run(AnnealingConfig(), ANNEALING, schedule(section), 0.0, 0)
        for section in ({"name": "cosine"}, {"name": "constant"}, {"name": "wsd", "decay_steps": 1000})
    ]
    fit = fit_curves(AnnealingConfig(), runs, samples=0)
    planned = LrCurve(np.repeat([PEAK, PEAK / 10, PEAK], 1000))
    predicted = {}
    for step in (2000, 3000):
        prediction = FixedFitForecast(fit).predict_loss(RunProgress(planned, None), step)
        assert isinstance(prediction, Prediction)
        predicted[step] = prediction.loss
    decay, drop = 0.999, 0.9 * PEAK

    def expected(s1: float, s2: float) -> float:
        return ANNEALING["L0"] + ANNEALING["A"] * s1 ** -ANNEALING["alpha"] - ANNEALING["C"] * s2

    after_drop = drop * (1 - decay**1000) / (1 - decay)
    after_rise = drop * ((1 - decay**2000) - (1 - decay**1000)) / (1 - decay)
    assert predicted[2000] == pytest.approx(expected(1100 * PEAK, after_drop), rel=1e-5)
    assert predicted[3000] == pytest.approx(expected(2100 * PEAK, after_rise), rel=1e-5)


def test_a_run_in_its_second_decay_is_forecast_from_its_own_losses() -> None:
    """A cosine, a re-warming to the same peak, and a second cosine: its end is forecast from halfway through it."""
    cosine = SCHEDULES.parse({"name": "cosine", "warmup_steps": 100, "min_lr": PEAK / 10})
    first, second = (cosine.build(peak_lr=PEAK, total_steps=3000) for _ in range(2))
    lr_n = in_sequence([first, rewarmed(second, warmup_steps=100, from_lr=PEAK / 10)]).every_step()
    run = noisy_run(AnnealingConfig(), ANNEALING, LrCurve(lr_n, 100), 1e-3, seed=5, losses=80)
    early = int(np.searchsorted(run.steps, 4500))
    prediction = RefittedForecast(AnnealingConfig()).predict_loss(progress(run, early), 6000)
    assert isinstance(prediction, Prediction), prediction
    assert prediction.low < run.loss[-1] < prediction.high
    assert prediction.loss == pytest.approx(run.loss[-1], rel=5e-3)
