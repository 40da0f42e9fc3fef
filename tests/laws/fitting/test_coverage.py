"""90% intervals of every law hold the truth in about 90% of fits to losses that were made by the law.

The noise of neighbouring losses of a curve is correlated, as the bootstrap supposes. A parameter that a prior holds is
drawn from the prior anew for each fit. With 200 fits the share of a true 90% has a standard error of 2.1%.
"""

import numpy as np
import pytest

from laws.curve import Floats, LossCurve, every_step, last_step, planned_lr_curve
from laws.fitting.fitted import fit_curves
from laws.law import CurveLaw
from laws.loss_curves.annealing import AnnealingConfig
from laws.loss_curves.annealing_size import AnnealingSizeConfig
from laws.loss_curves.multi_power import MultiPowerConfig
from laws.loss_curves.relaxation import RelaxationConfig
from laws.scaling.fit import fit_runs
from laws.scaling.laws import AverageParametersConfig, ChinchillaConfig, PowerConstantConfig, Runs
from schedules.base import SCHEDULES

FITS = 200
SAMPLES = 100
NOISE = 1e-3
LOSSES = 60

SECTIONS = (
    {"name": "cosine", "min_lr": 3e-5},
    {"name": "constant"},
    {"name": "wsd", "min_lr": 3e-5},
    {"name": "wsd", "decay_steps": 4000, "min_lr": 9e-5},
)
UNSEEN = {"name": "linear", "min_lr": 3e-5}
SIZES = (5e7, 1e8, 3e8, 1e9)
CURVE_LAWS = {
    "annealing": (AnnealingConfig(), {"L0": 2.8, "A": 0.6, "C": 0.5, "alpha": 0.45}),
    "annealing, lambda fitted": (
        AnnealingConfig(fit_decay=True),
        {"L0": 2.8, "A": 0.6, "C": 0.5, "alpha": 0.45, "one_minus_lambda": 2e-3},
    ),
    "annealing_size": (
        AnnealingSizeConfig(),
        {"L0": 1.8, "A": 0.6, "B": 400.0, "C": 0.05, "alpha": 0.45, "beta": 0.34, "gamma": 0.12},
    ),
    "multi_power": (
        MultiPowerConfig(),
        {"L0": 2.65, "A": 0.6, "B": 438.0, "alpha": 0.453, "beta": 0.6, "gamma": 0.65, "C": 2.1},
    ),
    "relaxation": (RelaxationConfig(), {"L0": 2.68, "A": 0.53, "B": 0.2, "alpha": 0.5, "C": 0.02}),
}
TWO_POWERS = {"E": 1.8172, "A": 482.0, "B": 2085.0, "alpha": 0.3478, "beta": 0.3658}
COMPUTE_LAWS = {
    "power_constant": (PowerConstantConfig(), {"L_inf": 1.7, "A": 250.0, "alpha": 0.13}),
    "chinchilla": (ChinchillaConfig(), TWO_POWERS),
    "average_parameters": (AverageParametersConfig(), TWO_POWERS),
}


def correlated(rng: np.random.Generator, size: int, kept: float = 0.5) -> Floats:
    """Noise of standard deviation 1 that remembers half of its last value."""
    noise = rng.normal(size=size)
    for index in range(1, size):
        noise[index] = kept * noise[index - 1] + np.sqrt(1 - kept**2) * noise[index]
    return noise


def drawn(law: CurveLaw, values: dict[str, float], rng: np.random.Generator) -> dict[str, float]:
    """The true values, with those that a prior holds drawn from it."""
    found = dict(values)
    for shape in law.shapes():
        if shape.prior is not None:
            value = rng.normal(*shape.prior)
            found[shape.name] = float(np.clip(np.exp(value) if shape.log else value, shape.lower, shape.upper))
    return found


def assert_near_90(held: dict[str, int]) -> None:
    shares = {name: round(count / FITS, 3) for name, count in held.items()}
    print(shares)
    assert all(0.86 <= share <= 0.94 for share in shares.values()), shares


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVE_LAWS)
def test_intervals_of_a_curve_law(name: str) -> None:
    """Each parameter, and a new last loss of a schedule that was not fitted, without the allowance for a law's miss."""
    law, values = CURVE_LAWS[name]
    sizes = SIZES if law.spans_sizes else (None,) * len(SECTIONS)
    plans = [
        planned_lr_curve(SCHEDULES.parse({"warmup_steps": 200, **section}), peak_lr=3e-4, total_steps=8000)
        for section in SECTIONS
    ]
    points = [every_step(plan, most=LOSSES, parameters=size) for plan, size in zip(plans, sizes, strict=True)]
    planned = planned_lr_curve(SCHEDULES.parse({"warmup_steps": 200, **UNSEEN}), peak_lr=3e-4, total_steps=8000)
    end = last_step(planned, parameters=sizes[0])
    held = dict.fromkeys((*values, "last loss"), 0)
    for seed in range(FITS):
        rng = np.random.default_rng(seed)
        truth = drawn(law, values, rng)
        curves = [
            LossCurve(
                at.schedule,
                at.steps,
                loss=law.predict(truth, at) * np.exp(NOISE * correlated(rng, at.steps.size)),
                parameters=at.parameters,
            )
            for at in points
        ]
        fit = fit_curves(law, curves, samples=SAMPLES, seed=seed).model_copy(update={"law_error": 0.0})
        for parameter, (low, high) in fit.parameter_intervals().items():
            held[parameter] += low <= truth[parameter] <= high
        (low,), (high,) = fit.band(end)
        held["last loss"] += bool(low <= law.predict(truth, end)[0] * np.exp(NOISE * rng.normal()) <= high)
    assert_near_90(held)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPUTE_LAWS)
def test_intervals_of_a_compute_law(name: str) -> None:
    """Each parameter, and the loss of a new run, from 240 runs as those of arXiv 2203.15556 lie."""
    law, values = COMPUTE_LAWS[name]
    held = dict.fromkeys((*values, "new loss"), 0)
    for seed in range(FITS):
        rng = np.random.default_rng(seed)
        flops = 10 ** rng.uniform(18, 22, size=240)
        parameters = np.clip(np.sqrt(flops / 120) * 10 ** rng.normal(scale=0.35, size=240), 4e7, 1.6e10)
        exact = Runs(parameters, flops / 6 / parameters, np.ones(240))
        theta = law.pack(values)[None]
        loss = law.evaluate(theta, law.features(exact))[0][0] * np.exp(0.006 * rng.normal(size=240))
        fit = fit_runs(law, Runs(exact.parameters, exact.tokens, loss), samples=SAMPLES, seed=seed)
        for parameter, column in zip(values, np.array(fit.samples).T, strict=True):
            low, high = np.quantile(column, [0.05, 0.95])
            held[parameter] += bool(low <= values[parameter] <= high)
        _, low, high = fit.predict(parameters=1e9, tokens=2e10)
        new = Runs(np.array([1e9]), np.array([2e10]), np.ones(1))
        held["new loss"] += bool(
            low <= law.evaluate(theta, law.features(new))[0][0, 0] * np.exp(0.006 * rng.normal()) <= high
        )
    assert_near_90(held)
