"""Fitted compute laws, from the final losses of many runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from laws.fitting.bootstrap import LEVEL, interval, parameter_intervals, resampled_parameters
from laws.fitting.solver import fit_points
from laws.law import SMALLEST_LOSS
from laws.reading.csv_columns import read_columns
from laws.scaling.laws import COMPUTE_LAWS, ComputeLaw, Runs
from settings import Settings, UserError


class ComputeFit(Settings):
    """The parameters of a compute law, with bootstrap samples of them."""

    format: Literal[1] = 1
    law: Annotated[ComputeLaw, COMPUTE_LAWS.field]
    values: dict[str, float]
    objective: float = Field(ge=0)
    residuals: tuple[float, ...] = Field(
        description="of log losses, over sqrt(1 - p / n): a fit of p takes a part away"
    )
    samples: tuple[tuple[float, ...], ...] = ()
    parameters_range: tuple[float, float]
    tokens_range: tuple[float, float]

    def predict(
        self,
        *,
        parameters: float,
        tokens: float,
        batch_tokens: float | None = None,
        unique_tokens: float | None = None,
        level: float = LEVEL,
    ) -> tuple[float, float, float]:
        """Returns the final loss and its interval: (loss, low, high). Raises UserError where the law needs more."""
        extra = (None if value is None else np.array([value]) for value in (batch_tokens, unique_tokens))
        at = Runs(np.array([parameters]), np.array([tokens]), np.ones(1), *extra)
        features = self.law.features(at)
        loss = float(self.law.evaluate(self.law.pack(self.values)[None], features)[0][0, 0])
        if not self.samples:
            return loss, loss, loss
        spread_b = np.log(np.maximum(self.law.evaluate(np.array(self.samples), features)[0][:, 0], SMALLEST_LOSS))
        noisy = spread_b[:, None] + np.concatenate([self.residuals, np.negative(self.residuals)])
        # Of n residuals, the largest holds a new one in n cases of n + 1 only.
        wider = min(level * (1 + 1 / len(self.residuals)), 1.0)
        low, high = interval(noisy.ravel(), wider)
        return loss, float(np.exp(low)), float(np.exp(high))

    def parameter_intervals(self, *, level: float = LEVEL) -> dict[str, tuple[float, float]]:
        """Returns the interval of each parameter, by name; empty without samples."""
        return parameter_intervals(self.values, self.samples, level)

    def warnings(self, *, parameters: float, tokens: float) -> tuple[str, ...]:
        """Returns a warning for each quantity that lies outside the runs of the fit."""
        quantities = (("parameters", parameters, self.parameters_range), ("tokens", tokens, self.tokens_range))
        return tuple(
            f"{value:.3g} {name} is outside the {low:.3g} to {high:.3g} of the fitted runs: an extrapolation"
            for name, value, (low, high) in quantities
            if not low <= value <= high
        )


def fit_runs(law: ComputeLaw, runs: Runs, *, samples: int = 200, seed: int = 0) -> ComputeFit:
    """Fits a compute law. Raises UserError where the runs cannot identify its parameters."""
    law.check(runs)
    law = law.suited(runs)
    features = law.features(runs)
    best = fit_points(law, features, runs.loss)
    lengths = [1] * runs.loss.size  # each run is on its own
    sampled = resampled_parameters(law, features, runs.loss, best.theta_p, lengths=lengths, count=samples, seed=seed)
    predicted_n = law.evaluate(best.theta_p[None], features)[0][0]
    residual_n = np.log(runs.loss) - np.log(np.maximum(predicted_n, SMALLEST_LOSS))
    freedom = runs.loss.size / max(runs.loss.size - best.theta_p.size, 1)
    return ComputeFit(
        law=law,
        values=dict(zip(law.parameter_names(), best.theta_p.tolist(), strict=True)),
        objective=best.objective,
        residuals=tuple((residual_n * np.sqrt(freedom)).tolist()),
        samples=tuple(tuple(row) for row in sampled.tolist()),
        parameters_range=(float(runs.parameters.min()), float(runs.parameters.max())),
        tokens_range=(float(runs.tokens.min()), float(runs.tokens.max())),
    )


def read_runs(path: Path) -> Runs:
    """Reads a CSV: parameters, tokens, loss, and batch_tokens, unique_tokens if they are there. Raises UserError."""
    columns = read_columns(path, ("parameters", "tokens", "loss"), optional=("batch_tokens", "unique_tokens"))
    try:
        return Runs(**columns)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
