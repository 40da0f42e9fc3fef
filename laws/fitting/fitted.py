"""A fitted law: `lehr law fit` writes it to a fit file, and forecasts read it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from laws.curve import EvaluationPoints, Floats, LossCurve
from laws.fitting.bootstrap import LEVEL, parameter_intervals, resampled_parameters
from laws.fitting.law_error import law_error_growth, lr_shape
from laws.fitting.solver import fit_points
from laws.law import LAWS, SMALLEST_LOSS, CurveLaw
from settings import Settings, UserError, parse
from settings.files import output_of_user, read_json, write_json

MOST_LOSSES = 400  # of a curve that enter a fit; more add cost, not knowledge: neighbours are correlated
LAW_ERROR = CurveLaw.law_error  # of most laws


class FittedCurve(Settings):
    """One run among the data of a fit."""

    name: str
    steps: int
    losses: int
    peak_lr: float
    last_lr: float
    warmup_steps: int
    parameters: float | None = Field(None, description="of the model, where known")
    batch_tokens: float | None = Field(None, description="of a step, where known")
    mean_error: float = Field(description="relative, of the fit on this curve")
    lr_shape: tuple[float, ...] = Field((), description="lr over its peak, at even shares of the steps; () if unknown")
    origin: dict[str, Any] = Field({}, description="keys of the run's config: what the loss is of, where known")
    digest: str = Field("", description="the hash of the run's config, where known")


class Fit(Settings):
    """The parameters of a law, how sure they are, and what they were fitted on. JSON on disk."""

    format: Literal[1] = 1
    law: Annotated[CurveLaw, LAWS.field]
    values: dict[str, float]
    objective: float = Field(ge=0, description="sum of Huber (delta 1e-3) on log losses, and the priors")
    noise: float = Field(ge=0, description="relative: standard deviation of the residuals, robust")
    law_error: float = Field(LAW_ERROR, ge=0, description="relative: added to the intervals of predictions")
    samples: tuple[tuple[float, ...], ...] = Field((), description="bootstrap: parameters in the order of `values`")
    curves: tuple[FittedCurve, ...] = ()
    notes: tuple[str, ...] = Field((), description="what the curves could not tell, such as an exponent of two sizes")

    @model_validator(mode="after")
    def _check(self) -> Fit:
        self.law.pack(self.values)
        wrong = [len(sample) for sample in self.samples if len(sample) != len(self.values)]
        if wrong:
            raise UserError(f"a sample holds {wrong[0]} parameters, not {len(self.values)}")
        return self

    @cached_property
    def theta_p(self) -> Floats:
        """The parameters in the law's order [p]."""
        return self.law.pack(self.values)

    def predict(self, points: EvaluationPoints) -> Floats:
        """Returns the loss at each point [k]."""
        return np.maximum(self.law.predict(self.values, points), SMALLEST_LOSS)

    def band(self, points: EvaluationPoints, *, level: float = LEVEL) -> tuple[Floats, Floats]:
        """Returns the band that should hold a run's own losses at each point: (low [k], high [k]).

        It adds the spreads of the parameters, of single losses and of the law itself (`law_error`, which grows beyond
        the runs of the fit) as independent.
        """
        predicted_k = self.predict(points)
        lean = np.hypot(self.noise, self.law_error * self.error_growth(points)) * normal_quantile(level)
        if not self.samples:
            return predicted_k * np.exp(-lean), predicted_k * np.exp(lean)
        features = self.law.features([points])
        loss_bk, _ = self.law.evaluate(np.array(self.samples), features)
        spread = np.log(np.maximum(loss_bk, SMALLEST_LOSS))
        low_k, high_k = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
        middle_k = np.log(predicted_k)
        below = np.hypot(np.maximum(middle_k - low_k, 0), lean)
        above = np.hypot(np.maximum(high_k - middle_k, 0), lean)
        return predicted_k * np.exp(-below), predicted_k * np.exp(above)

    def error_growth(self, points: EvaluationPoints) -> Floats:
        """Returns how many times `law_error` the law may miss the loss at each point [k], at least 1."""
        return law_error_growth(
            points,
            fitted_steps=[curve.steps for curve in self.curves],
            fitted_shapes=[curve.lr_shape for curve in self.curves],
            fitted_sizes=[curve.parameters for curve in self.curves if curve.parameters is not None],
            by_horizon=self.law.error_by_horizon,
            by_size=self.law.error_by_size,
        )

    def parameter_intervals(self, *, level: float = LEVEL) -> dict[str, tuple[float, float]]:
        """Returns the interval of each parameter, by name; empty without samples."""
        return parameter_intervals(self.values, self.samples, level)

    def save(self, path: Path) -> None:
        """Writes the fit file. Raises UserError if that fails."""
        with output_of_user(path):
            write_json(path, self.to_plain())


def load_fit(path: Path) -> Fit:
    """Reads a fit file. Raises UserError if it is missing or not one."""
    invalid = (
        f"{path} is no fit file: it must be JSON that names a law and its values, as `lehr law fit RUN... -o fit.json` "
        "writes it"
    )
    missing = f"fit file {path} does not exist; `lehr law fit RUN... -o {path}` writes one"
    plain = read_json(path, missing=missing, invalid=invalid)
    if not isinstance(plain, dict) or not {"law", "values"} <= set(plain):
        raise UserError(invalid)
    return parse(Fit, plain, source=f"fit file {path}")


def fit_curves(law: CurveLaw, curves: Sequence[LossCurve], *, samples: int = 200, seed: int = 0) -> Fit:
    """Fits a law to the losses of some curves after their warm-up, with `samples` bootstrap repeats.

    Raises UserError where the curves cannot identify the law's parameters.
    """
    law.check(curves)
    law = law.suited(curves)
    used = [curve.after_warmup().thinned(MOST_LOSSES) for curve in curves]
    loss_n = np.concatenate([curve.loss for curve in used])
    names = law.parameter_names()
    if loss_n.size < 2 * len(names):
        raise UserError(
            f"{loss_n.size} losses after warm-up are too few for the {len(names)} parameters of the {law.name} law: "
            f"give at least {2 * len(names)} (evaluate more often, or add runs)"
        )
    features = law.features(used)
    best = fit_points(law, features, loss_n)
    lengths = [curve.loss.size for curve in used]
    sampled = resampled_parameters(law, features, loss_n, best.theta_p, lengths=lengths, count=samples, seed=seed)
    predicted_n = law.evaluate(best.theta_p[None], features)[0][0]
    residual_n = np.log(loss_n) - np.log(np.maximum(predicted_n, SMALLEST_LOSS))
    parts = np.split(np.abs(np.expm1(-residual_n)), np.cumsum(lengths)[:-1])
    return Fit(
        law=law,
        values=dict(zip(names, best.theta_p.tolist(), strict=True)),
        objective=best.objective,
        noise=robust_spread(residual_n, parameters=len(names)),
        law_error=law.law_error,
        notes=law.notes(curves),
        samples=tuple(tuple(row) for row in sampled.tolist()),
        curves=tuple(
            FittedCurve(
                name=curve.name,
                steps=int(curve.steps[-1]),
                losses=curve.loss.size,
                peak_lr=curve.schedule.peak,
                last_lr=float(curve.schedule.lr[curve.steps[-1] - 1]),
                warmup_steps=curve.schedule.warmup_steps,
                parameters=curve.parameters,
                batch_tokens=curve.batch_tokens,
                mean_error=float(part.mean()),
                lr_shape=tuple(lr_shape(curve.schedule, int(curve.steps[-1])).tolist()),
                origin=dict(curve.provenance),
                digest=curve.digest,
            )
            for curve, part in zip(used, parts, strict=True)
        ),
    )


def robust_spread(residual_n: Floats, *, parameters: int) -> float:
    """Returns the standard deviation of a fit's residuals, by their median size.

    A robust fit of p parameters passes through about p of the losses, which say nothing of the noise: the p - 1
    smallest residuals are left out, as is customary in robust regression.
    """
    size_n = np.sort(np.abs(residual_n))[parameters - 1 :]
    return float(1.4826 * np.median(size_n))


def normal_quantile(level: float) -> float:
    """Returns half the width of the central interval of a level, in standard deviations."""
    return NormalDist().inv_cdf((1 + level) / 2)
