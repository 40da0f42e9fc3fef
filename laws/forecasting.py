"""The loss of a run, forecast while it runs: of the step it stands at, and of its last.

Two forecasters. `FittedForecast` has a law fitted on other runs; it never looks at this one's losses. `OwnForecast`
fits a law to this run's losses so far, anew at every evaluation: what it says of a step follows from the losses before
it alone, so a resumed run says the same. It says nothing where the losses do not tell: too few, an lr that has not
fallen yet but will, or an interval too wide to be of use.

Lr counts by steps that changed the weights: a skipped step trains nothing, and a law does not count it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from laws.curve import EvaluationPoints, Floats, LossCurve, LrCurve
from laws.fitting.bootstrap import LEVEL, correlation_steps
from laws.fitting.fitted import LAW_ERROR, Fit, normal_quantile, robust_spread
from laws.fitting.solver import fit_points
from laws.law import SMALLEST_LOSS, CurveLaw
from settings import UserError

MOST_LOSSES_OWN = 80  # that enter a refit: it must not cost more than a step
LOSSES_TO_SPARE = 3  # over the number of parameters, before a refit is tried
LEAST_FALL = 0.1  # of the fall of the lr that the schedule has, before its effect is known from the run itself
WIDEST = 0.02  # half of the 90% interval, relative: a wider forecast is none
NOISE_FLOOR = 3e-4
OWN_LAW_ERROR = 0.005  # relative: how far a law misses the end of a run of which it knows a part (docs/laws.md)
OWN_SPREAD = 1.5  # the linearised spread of parameters is too small by about this


@dataclass(frozen=True)
class Prediction:
    """A forecast loss and its 90% interval."""

    loss: float
    low: float
    high: float

    def half_width(self, fact: float) -> float:
        """Of the interval, on the side of the fact, in log loss."""
        return math.log(self.high / self.loss) if fact > self.loss else math.log(self.loss / self.low)


@dataclass(frozen=True, eq=False)
class RunProgress:
    """Where a run stands: `schedule`, the lr that was applied and then what is planned; `losses`, those seen so far."""

    schedule: LrCurve
    losses: LossCurve | None  # None before the first; its schedule ends with its last loss

    def place(self, step: int, parameters: float | None = None) -> EvaluationPoints:
        """One step of the schedule."""
        return EvaluationPoints(self.schedule, np.array([step]), parameters=parameters)


class Forecaster(Protocol):
    """What a run asks. An answer is an outlook, or why there is none."""

    def predict_loss(self, standing: RunProgress, step: int) -> Prediction | str:
        """The loss after `step` steps of the schedule, told from `standing`."""
        ...


class FittedForecast:
    """By a fit file: a promise made before the run."""

    def __init__(self, fit: Fit, *, parameters: float | None = None) -> None:
        """`parameters`: of the model, for a law over sizes."""
        self._fit = fit
        self._parameters = parameters

    def predict_loss(self, standing: RunProgress, step: int) -> Prediction | str:
        """The fit's prediction and band."""
        if step <= standing.schedule.warmup_steps:
            return "no law holds in the warm-up"
        place = standing.place(step, self._parameters)
        low, high = self._fit.band(place)
        return Prediction(float(self._fit.predict(place)[0]), float(low[0]), float(high[0]))


class OwnForecast:
    """By a law refitted on the run's own losses; an interval from the curvature of the fit, not from a bootstrap."""

    def __init__(self, law: CurveLaw) -> None:
        self._law = law
        self._refit: _Refit | None = None

    @property
    def least_losses(self) -> int:
        """How many losses after the warm-up it takes."""
        return len(self._law.parameter_names()) + LOSSES_TO_SPARE

    def predict_loss(self, standing: RunProgress, step: int) -> Prediction | str:
        """What the losses so far say of a step."""
        curve = standing.losses
        if curve is None or step <= standing.schedule.warmup_steps:
            return "no held-out loss after the warm-up yet"
        try:
            after = curve.between(max(standing.schedule.warmup_steps, 1))
        except UserError:
            return "no held-out loss after the warm-up yet"
        if after.steps.size < self.least_losses:
            return f"{after.steps.size} of {self.least_losses} held-out losses"
        if not _fall_is_known(standing.schedule, int(after.steps[-1]), step):
            return "the lr has not fallen yet"
        if self._refit is None or not self._refit.is_of(curve):
            try:
                self._refit = _Refit(self._law, curve, after.thinned(MOST_LOSSES_OWN))
            except np.linalg.LinAlgError:
                return "the law cannot be fitted to them"
        ahead = step - int(curve.steps[-1])
        return self._refit.predict_loss(standing.place(step), far=ahead > _spacing(after))


class _Refit:
    """A law's parameters by one run's losses, and their covariance near the optimum.

    In the coordinates of the search the covariance is (J'J / (b noise^2) + 1 / width^2)^-1: J the slopes of log loss, b
    over how many losses residuals hang together, width that of the priors.
    """

    def __init__(self, law: CurveLaw, curve: LossCurve, used: LossCurve) -> None:
        self._law, self._curve = law, curve
        features = law.features([used])
        self._theta_p = fit_points(law, features, used.loss).theta_p
        shapes = law.shapes()
        count = len(law.coefficients())
        logs_p = np.array([False] * count + [shape.log for shape in shapes])
        self._scale_p = np.where(logs_p, self._theta_p, 1.0)
        loss_n, slope_np = self._log_slopes(features)
        residual_n = np.log(used.loss) - np.log(loss_n)
        self.noise = max(robust_spread(residual_n, parameters=self._theta_p.size), NOISE_FLOOR)
        # A spike's few residuals, far out and side by side, say nothing of how the others hang together.
        together = correlation_steps(np.clip(residual_n, -3 * self.noise, 3 * self.noise))
        precision = slope_np.T @ slope_np / (self.noise**2 * together)
        priors = [0.0] * count + [0.0 if shape.prior is None else shape.prior[1] ** -2.0 for shape in shapes]
        precision += np.diag(priors)
        unit_p = 1 / np.sqrt(np.maximum(np.diag(precision), 1e-30))
        scaled = precision * unit_p[:, None] * unit_p + 1e-10 * np.eye(unit_p.size)
        self._covariance = np.linalg.inv(scaled) * unit_p[:, None] * unit_p

    def is_of(self, curve: LossCurve) -> bool:
        """Whether these are the losses it was fitted on."""
        return (
            np.array_equal(curve.steps, self._curve.steps)
            and np.array_equal(curve.loss, self._curve.loss)
            and np.array_equal(curve.schedule.lr, self._curve.schedule.lr)
        )

    def predict_loss(self, place: EvaluationPoints, *, far: bool) -> Prediction | str:
        """The interval adds the spread of the parameters, of single losses, and what the law misses."""
        loss_n, slope_np = self._log_slopes(self._law.features([place]))
        spread = OWN_SPREAD * math.sqrt(max(float(slope_np[0] @ self._covariance @ slope_np[0]), 0.0))
        missed = OWN_LAW_ERROR if far else LAW_ERROR
        half = normal_quantile(LEVEL) * math.hypot(spread, self.noise, missed)
        if not half <= WIDEST:
            return f"its interval would be {100 * half:.1f}% to either side" if half < 1 else "it could be anything"
        loss = float(loss_n[0])
        return Prediction(loss, loss * math.exp(-half), loss * math.exp(half))

    def _log_slopes(self, features: object) -> tuple[Floats, Floats]:
        """The loss [n], and the slopes of its logarithm in the coordinates of the search [n, p]."""
        loss_mn, slope_mnp = self._law.evaluate(self._theta_p[None], features)
        loss_n = np.maximum(loss_mn[0], SMALLEST_LOSS)
        return loss_n, slope_mnp[0] / loss_n[:, None] * self._scale_p


def _fall_is_known(schedule: LrCurve, now: int, step: int) -> bool:
    """Whether the lr has fallen by a part of what it will fall until `step`; so of a schedule that stays constant."""
    start = min(schedule.warmup_steps, now - 1)
    seen, whole = schedule.lr[start:now], schedule.lr[start:step]
    to_fall = whole.max() - whole.min()
    return bool(to_fall < 0.02 * schedule.peak or seen.max() - seen.min() >= LEAST_FALL * to_fall)


def _spacing(curve: LossCurve) -> float:
    return 1.5 * float(np.median(np.diff(curve.steps)))


FAR = 2.5  # half-widths of the band: once is enough
NEAR = 1.5  # half-widths of the band: on one side, IN_A_ROW times
IN_A_ROW = 3


@dataclass(frozen=True)
class DriftEvent:
    """A run that leaves the band of its forecast."""

    step: int
    error: float  # fact / forecast - 1
    prediction: Prediction


class DriftDetector:
    """Says once for each excursion that a run has left the band of its forecast.

    It has where a loss lies FAR half-widths from the forecast, or IN_A_ROW losses in a row lie NEAR on the same side;
    it is back when IN_A_ROW losses in a row lie within the band. One loss of noise is thereby no alarm: of Gaussian
    losses as the band supposes, independent or all shifted together, 1 run of 60 or fewer is flagged in 100 losses.
    """

    def __init__(self) -> None:
        self.outside = False
        self._run = 0  # losses in a row that speak for a change of `outside`, negative below the forecast

    def see(self, step: int, fact: float, prediction: Prediction) -> DriftEvent | None:
        """One loss, and what was forecast of it; a departure where one begins. A loss that is not finite is one."""
        size = _half_widths(fact, prediction)
        if self.outside:
            self._run = self._run + 1 if abs(size) <= 1 else 0
            if self._run == IN_A_ROW:
                self.outside, self._run = False, 0
            return None
        if abs(size) <= NEAR:
            self._run = 0
        else:
            side = 1 if size > 0 else -1
            self._run = self._run + side if self._run * side > 0 else side
        if abs(size) > FAR or abs(self._run) == IN_A_ROW:
            self.outside, self._run = True, 0
            return DriftEvent(step, fact / prediction.loss - 1, prediction)
        return None


def _half_widths(fact: float, prediction: Prediction) -> float:
    """How far a loss lies from its forecast; 1 is the edge of the band."""
    if not (math.isfinite(fact) and fact > 0):
        return math.inf
    return math.log(fact / prediction.loss) / prediction.half_width(fact)
