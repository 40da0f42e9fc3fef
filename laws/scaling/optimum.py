"""The best split of a budget of compute into parameters N and tokens D."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from laws.curve import Floats
from laws.law import FLOPS_PER_PARAMETER_TOKEN
from laws.scaling.laws import ComputeLaw, Runs
from settings import UserError

LOG_N = (np.log(1e3), np.log(1e15))  # where the best N is looked for


@dataclass(frozen=True)
class Optimum:
    """The best split of a budget of FLOPs."""

    flops: float
    parameters: float
    tokens: float
    loss: float


def compute_optimal(
    law: ComputeLaw,
    values: Mapping[str, float],
    flops: float,
    *,
    batch_tokens: float | None = None,
    unique_tokens: float | None = None,
) -> Optimum:
    """Returns the N and D of least loss with 6 N D = flops: a grid over log N, refined within its best cells.

    Raises UserError where the law has no such point: where more of N, or more of D, always gains (a fit whose
    coefficient or exponent is 0, or a law of compute alone).
    """
    if not flops > 0:
        raise UserError(f"a budget of {flops} FLOPs must be above 0")
    theta_p = law.pack(values)

    def losses(log_n: Floats) -> Floats:
        parameters = np.exp(log_n)
        extra = (None if value is None else np.full(log_n.size, value) for value in (batch_tokens, unique_tokens))
        tokens = flops / FLOPS_PER_PARAMETER_TOKEN / parameters
        runs = Runs(parameters, tokens, np.ones(log_n.size), *extra)
        found: Floats = law.evaluate(theta_p[None], law.features(runs))[0][0]
        return found

    grid = np.linspace(*LOG_N, 400)
    loss_g = losses(grid)
    best = int(np.argmin(loss_g))
    if best in (0, grid.size - 1) or np.ptp(loss_g) < 1e-9:
        raise UserError(
            f"in the fit of the {law.name} law no split of {flops:.3g} FLOPs is best: one of N and D gains nothing (a "
            "coefficient or an exponent of 0), or the law knows compute alone; add runs over a wider range"
        )
    refined = minimize_scalar(
        lambda log_n: float(losses(np.array([log_n]))[0]),
        bounds=(float(grid[best - 1]), float(grid[best + 1])),
        method="bounded",
        options={"xatol": 1e-9},
    )
    parameters = float(np.exp(refined.x))
    return Optimum(flops, parameters, flops / FLOPS_PER_PARAMETER_TOKEN / parameters, float(refined.fun))
