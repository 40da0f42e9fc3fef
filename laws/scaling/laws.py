"""Laws of the final loss over model size N (parameters) and data D (tokens).

    power_constant        L = L_inf + A C^-alpha            C: compute, 6 N D FLOPs (arXiv 2010.14701)
    chinchilla            L = E + A N^-alpha + B D^-beta     (Hoffmann et al., arXiv 2203.15556, approach 3)
    average_parameters    the same with N the average count over training, so that runs pruned on the way and dense runs
                          lie on one curve (The Journey Matters, arXiv 2501.12486)

The laws of other files: skaling, farseer, repetition, kaplan_batch.

Legend of shapes: as in law.py; n runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from laws.curve import Floats
from laws.law import FLOPS_PER_PARAMETER_TOKEN, Coefficient, LawConfig, Shape
from settings import Registry, UserError


@dataclass(frozen=True, eq=False)
class Runs:
    """The final losses of n runs. `parameters` is N (the average over training, for average_parameters)."""

    parameters: Floats  # [n]
    tokens: Floats  # [n]
    loss: Floats  # [n]
    batch_tokens: Floats | None = None  # [n], of a step
    unique_tokens: Floats | None = None  # [n]; None: no token was seen twice

    def __post_init__(self) -> None:
        for name in ("parameters", "tokens", "loss", "batch_tokens", "unique_tokens"):
            if getattr(self, name) is None:
                continue
            values = np.atleast_1d(np.asarray(getattr(self, name), dtype=np.float64))
            if values.shape != np.shape(np.atleast_1d(self.parameters)) or values.ndim != 1:
                raise UserError(f"{name}: as many values as there are runs are needed")
            if not np.all(np.isfinite(values) & (values > 0)):
                raise UserError(f"{name}: every value must be positive and finite")
            object.__setattr__(self, name, values)

    @property
    def flops(self) -> Floats:
        """6 N D [n]."""
        return FLOPS_PER_PARAMETER_TOKEN * self.parameters * self.tokens


class ComputeLaw(LawConfig):
    """A law of the final loss."""

    def suited(self, runs: Runs) -> Self:
        """Returns the law in the units of the runs to be fitted."""
        return self

    def features(self, runs: Runs) -> Any:
        """Returns what `terms` needs; here, the logarithms of the quantities raised to powers [powers, n]."""
        raise AssertionError(f"{type(self).__name__} has no features")

    def check(self, runs: Runs) -> None:
        """Raises UserError if the runs cannot identify the parameters."""
        raise AssertionError(f"{type(self).__name__} has no check")

    def terms(self, shape_mq: Floats, features: Any) -> tuple[Floats, Floats]:
        """Returns 1, and each quantity to minus its power."""
        count, (powers, runs) = shape_mq.shape[0], np.shape(features)
        phi = np.ones((count, runs, powers + 1))
        slope = np.zeros((count, runs, powers + 1, powers))
        for index, log_n in enumerate(features):
            phi[:, :, index + 1] = np.exp(-shape_mq[:, index, None] * log_n)
            slope[:, :, index + 1, index] = -phi[:, :, index + 1] * log_n
        return phi, slope


COMPUTE_LAWS = Registry("compute law", room="laws.scaling", base=ComputeLaw)


@COMPUTE_LAWS.register
class PowerConstantConfig(ComputeLaw):
    """L = L_inf + A C^-alpha."""

    name: Literal["power_constant"] = "power_constant"

    def coefficients(self) -> tuple[Coefficient, ...]:
        """Returns L_inf, A."""
        return (Coefficient("L_inf", 1, "the loss that is left"), Coefficient("A", 1, "of compute"))

    def shapes(self) -> tuple[Shape, ...]:
        """Returns alpha."""
        return (Shape("alpha", 0.0, 2.0, tuple(np.linspace(0.02, 0.6, 15)), "of compute"),)

    def features(self, runs: Runs) -> Floats:
        """Returns log C."""
        return np.log(runs.flops)[None]

    def check(self, runs: Runs) -> None:
        """Raises UserError for fewer than three budgets."""
        check_distinct(self.name, "compute budgets", runs.flops, 3)


class TwoPowersConfig(ComputeLaw):
    """L = E + A N^-alpha + B D^-beta."""

    def coefficients(self) -> tuple[Coefficient, ...]:
        """Returns E, A, B."""
        return (
            Coefficient("E", 1, "the loss that is left"),
            Coefficient("A", 1, "of parameters"),
            Coefficient("B", 1, "of tokens"),
        )

    def shapes(self) -> tuple[Shape, ...]:
        """Returns alpha, beta."""
        grid = tuple(np.linspace(0.1, 0.8, 8))
        return (
            Shape("alpha", 0.0, 2.0, grid, "of parameters"),
            Shape("beta", 0.0, 2.0, grid, "of tokens"),
        )

    def features(self, runs: Runs) -> Floats:
        """Returns log N, log D."""
        return np.log(np.stack([runs.parameters, runs.tokens]))

    def check(self, runs: Runs) -> None:
        """Raises UserError for fewer than 3 sizes, 3 amounts of data or 6 runs, and for N and D tied to each other."""
        check_two_powers(self.name, runs, least=6, parameters=5)


@COMPUTE_LAWS.register
class ChinchillaConfig(TwoPowersConfig):
    """L(N, D), N the parameters."""

    name: Literal["chinchilla"] = "chinchilla"


@COMPUTE_LAWS.register
class AverageParametersConfig(TwoPowersConfig):
    """L(N_avg, D), N_avg the parameters averaged over training; count all or only the prunable ones, but one way."""

    name: Literal["average_parameters"] = "average_parameters"


def average_parameters(parameters: Floats, tokens: Floats) -> float:
    """Returns N_avg of a run that had `parameters` [t] during `tokens` [t] (of each stage, not the running sum)."""
    weights = np.asarray(tokens, dtype=np.float64)
    return float(np.asarray(parameters, dtype=np.float64) @ weights / weights.sum())


def check_two_powers(law: str, runs: Runs, *, least: int, parameters: int) -> None:
    """Raises UserError for fewer than 3 sizes, 3 amounts of data or `least` runs, and for D a power of N."""
    check_distinct(law, "model sizes", runs.parameters, 3)
    check_distinct(law, "amounts of data", runs.tokens, 3)
    if runs.loss.size < least:
        raise UserError(
            f"the {law} law has {parameters} parameters; {runs.loss.size} runs are too few: give at least {least}"
        )
    if abs(np.corrcoef(np.log(runs.parameters), np.log(runs.tokens))[0, 1]) > 0.999:
        raise UserError(
            f"in these runs tokens are a power of parameters, so the {law} law cannot tell the two apart; "
            "add runs with the same size and other amounts of data"
        )


def check_distinct(law: str, what: str, values: Floats, least: int) -> None:
    """Raises UserError if there are fewer than `least` values that differ by over a hundredth."""
    distinct = 1 + int((np.diff(np.sort(np.log(values))) > 0.01).sum())
    if distinct < least:
        raise UserError(f"the {law} law needs at least {least} different {what}; these runs have {distinct}")
