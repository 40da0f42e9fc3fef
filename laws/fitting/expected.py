"""The width of a forecast before any run: a fit to losses that the law itself makes, at its typical values.

It says what a design buys if the runs follow the law about as published runs do; the runs then tell the real width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from laws.curve import EvaluationPoints, LossCurve
from laws.fitting.fitted import Fit, fit_curves
from laws.loss_curves.joint import JointConfig

TYPICAL_NOISE = 0.002  # relative, of single held-out losses
# In units of the middle of the runs. The exponents are those of Skaling's fit of Chinchilla's runs; the others are
# about those of a published ladder (benchmarks/ladder_laws.md).
TYPICAL: Mapping[str, float] = {
    "E": 1.8,
    "S0": 0.6,
    "G": 0.15,
    "F": 0.01,
    "alpha": 0.424,
    "beta": 0.43,
    "w": 1.0,
    "k": 0.774,
    "C": 0.02,
}


def expected_fit(runs: Sequence[EvaluationPoints], *, samples: int = 100, seed: int = 0) -> Fit:
    """Returns the fit of the joint law to losses of its own at the points of runs to come. Raises UserError.

    `runs`: with their parameters and tokens a step.
    """
    law = JointConfig().suited(runs)
    draw = np.random.default_rng(seed)
    curves = []
    for number, points in enumerate(runs):
        noise = np.exp(TYPICAL_NOISE * draw.normal(size=points.steps.size))
        loss = law.predict(TYPICAL, points) * noise
        curves.append(
            LossCurve(
                points.schedule,
                points.steps,
                loss=loss,
                name=f"run {number + 1}",
                parameters=points.parameters,
                batch_tokens=points.batch_tokens,
            )
        )
    return fit_curves(JointConfig(), curves, samples=samples)
