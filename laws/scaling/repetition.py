"""The repetition law, for more than one epoch: L = E + A N'^-alpha + B D'^-beta (Muennighoff et al., arXiv 2305.16264).

    D' = U + U R_D (1 - exp(-r / R_D)),  r = D / U - 1 repeats of U unique tokens
    N' = V + V R_N (1 - exp(-r / R_N)),  r = N / V - 1,  V = min(N, 0.051 U)

A repeated token is worth exp(-r / R_D) of a fresh one. Parameters beyond those that U tokens can use (V, of the
authors' own compute-optimal split) lose worth in the same way. Without repeats it is the Chinchilla law in D, but not
in N.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from pydantic import Field

from laws.curve import Floats
from laws.law import Coefficient, Shape
from laws.scaling.laws import COMPUTE_LAWS, ComputeLaw, Runs, check_two_powers
from settings import UserError

PUBLISHED_R_D, PUBLISHED_R_N = 15.388, 5.310


@COMPUTE_LAWS.register
class RepetitionConfig(ComputeLaw):
    """The law; runs without repeats say nothing of R_D, which then stays at the published value, its prior."""

    name: Literal["repetition"] = "repetition"
    parameters_per_unique_token: float = Field(0.051, gt=0, description="what U unique tokens can use, over U")

    def coefficients(self) -> tuple[Coefficient, ...]:
        """Returns E, A, B."""
        return (
            Coefficient("E", 1, "the loss that is left"),
            Coefficient("A", 1, "of parameters"),
            Coefficient("B", 1, "of tokens"),
        )

    def shapes(self) -> tuple[Shape, ...]:
        """Returns alpha, beta, R_D, R_N."""
        grid = (0.15, 0.25, 0.35, 0.45, 0.6)
        return (
            Shape("alpha", 0.0, 2.0, grid, "of parameters"),
            Shape("beta", 0.0, 2.0, grid, "of tokens"),
            Shape("R_D", 0.1, 1e3, (5.0, 15.0), "repeats, of tokens", log=True, prior=(math.log(PUBLISHED_R_D), 1.0)),
            Shape("R_N", 0.1, 1e3, (2.0, 6.0), "of parameters", log=True, prior=(math.log(PUBLISHED_R_N), 1.0)),
        )

    def check(self, runs: Runs) -> None:
        """Raises UserError where the unique tokens are unknown, and for what cannot identify the Chinchilla law."""
        if runs.unique_tokens is None:
            raise UserError(
                f"the {self.name} law needs the number of unique tokens of each run: unique_tokens is missing"
            )
        check_two_powers(self.name, runs, least=8, parameters=7)

    def features(self, runs: Runs) -> tuple[Floats, Floats, Floats, Floats]:
        """Returns V, its repeats, U and its repeats."""
        unique = runs.tokens if runs.unique_tokens is None else np.minimum(runs.unique_tokens, runs.tokens)
        usable = np.minimum(runs.parameters, self.parameters_per_unique_token * unique)
        return usable, runs.parameters / usable - 1, unique, runs.tokens / unique - 1

    def terms(self, shape_mq: Floats, features: Any) -> tuple[Floats, Floats]:
        """Returns 1, N'^-alpha, D'^-beta."""
        phi = np.ones((shape_mq.shape[0], features[0].size, 3))
        slope = np.zeros((*phi.shape, 4))
        for term, at in ((0, 3), (1, 2)):  # where R_N and R_D stand among the shapes
            base_n, repeats_n = features[2 * term : 2 * term + 2]
            power, reach = shape_mq[:, term, None], shape_mq[:, at, None]
            worth = np.exp(-repeats_n / reach)
            log_value = np.log(base_n * (1 + reach * (1 - worth)))
            phi[:, :, term + 1] = np.exp(-power * log_value)
            slope[:, :, term + 1, term] = -phi[:, :, term + 1] * log_value
            by_reach = (1 - worth * (1 + repeats_n / reach)) / (1 + reach * (1 - worth))
            slope[:, :, term + 1, at] = -power * phi[:, :, term + 1] * by_reach
        return phi, slope
