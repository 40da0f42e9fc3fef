"""A forecast by a law that is fitted to the run's own losses so far, anew at every evaluation.

A forecast follows from the losses before it alone, so a resumed run forecasts the same. There is none where the losses
do not suffice: too few, an lr that has not dropped yet but will, or an interval too wide to be of use.
"""

from __future__ import annotations

import math

import numpy as np

from laws.curve import EvaluationPoints, Floats, LossCurve, LrCurve
from laws.fitting.bootstrap import LEVEL
from laws.fitting.correlation import correlation
from laws.fitting.fitted import LAW_ERROR, normal_quantile, robust_spread
from laws.fitting.solver import fit_points
from laws.forecasting.prediction import Prediction, RunProgress
from laws.law import SMALLEST_LOSS, CurveLaw
from settings import UserError

MOST_LOSSES_OWN = 80  # that enter a refit: it must not cost more than a step
LOSSES_TO_SPARE = 3  # over the number of parameters, before a refit is tried
LEAST_DROP = 0.1  # of the schedule's lr drop, before its effect is known from the run itself
WIDEST = 0.02  # half of the 90% interval, relative: a wider forecast is none
NOISE_FLOOR = 3e-4
OWN_LAW_ERROR = 0.005  # relative: how far a law misses the end of a run of which it knows a part (docs/laws.md)
OWN_SPREAD = 1.5  # the linearised spread of parameters is too small by about this


class RefittedForecast:
    """Forecasts a run by a law refitted on its own losses.

    The interval follows from the curvature of the fit, not from a bootstrap.
    """

    def __init__(self, law: CurveLaw) -> None:
        self._law = law
        self._refit: _Refit | None = None

    @property
    def least_losses(self) -> int:
        """The number of losses after the warm-up that a forecast needs."""
        return len(self._law.parameter_names()) + LOSSES_TO_SPARE

    def predict_loss(self, progress: RunProgress, step: int) -> Prediction | str:
        """Returns what the losses so far say of a step, or why they say nothing."""
        curve = progress.losses
        if curve is None or step <= progress.schedule.warmup_steps:
            return "no held-out loss after the warm-up yet"
        try:
            after = curve.between(max(progress.schedule.warmup_steps, 1))
        except UserError:
            return "no held-out loss after the warm-up yet"
        if after.steps.size < self.least_losses:
            return f"{after.steps.size} of {self.least_losses} held-out losses"
        ahead = drop_ahead(progress.schedule, int(after.steps[-1]), step)
        if ahead > 1 / LEAST_DROP:
            return "the lr has not fallen yet"
        if self._refit is None or not self._refit.is_of(curve):
            try:
                self._refit = _Refit(self._law, curve, after.thinned(MOST_LOSSES_OWN))
            except np.linalg.LinAlgError:
                return "the law cannot be fitted to them"
        far = step - int(curve.steps[-1]) > _spacing(after)
        return self._refit.predict_loss(progress.at(step), missed=OWN_LAW_ERROR if far else LAW_ERROR * ahead)


class _Refit:
    """A law's parameters, fitted to one run's losses, and their covariance near the optimum.

    In the coordinates of the search the covariance is (J'J / (b noise^2) + 1 / width^2)^-1: J are the slopes of log
    loss, b is the number of losses over which residuals are correlated, width is that of the priors.
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
        # A spike's few residuals, far out and side by side, say nothing of how the others are correlated.
        clipped_n = np.clip(residual_n, -3 * self.noise, 3 * self.noise)
        together = correlation([clipped_n]).steps
        precision = slope_np.T @ slope_np / (self.noise**2 * together)
        priors = [0.0] * count + [0.0 if shape.prior is None else shape.prior[1] ** -2.0 for shape in shapes]
        precision += np.diag(priors)
        unit_p = 1 / np.sqrt(np.maximum(np.diag(precision), 1e-30))
        scaled = precision * unit_p[:, None] * unit_p + 1e-10 * np.eye(unit_p.size)
        self._covariance = np.linalg.inv(scaled) * unit_p[:, None] * unit_p

    def is_of(self, curve: LossCurve) -> bool:
        """Returns whether these are the losses that it was fitted on."""
        return (
            np.array_equal(curve.steps, self._curve.steps)
            and np.array_equal(curve.loss, self._curve.loss)
            and np.array_equal(curve.schedule.lr, self._curve.schedule.lr)
        )

    def predict_loss(self, point: EvaluationPoints, *, missed: float) -> Prediction | str:
        """Returns the prediction; its interval adds the spreads of the parameters and of single losses to `missed`.

        `missed` is the relative error of the law itself.
        """
        loss_n, slope_np = self._log_slopes(self._law.features([point]))
        spread = OWN_SPREAD * math.sqrt(max(float(slope_np[0] @ self._covariance @ slope_np[0]), 0.0))
        half = normal_quantile(LEVEL) * math.hypot(spread, self.noise, missed)
        if not half <= WIDEST:
            return f"its interval would be {100 * half:.1f}% to either side" if half < 1 else "it could be anything"
        loss = float(loss_n[0])
        return Prediction(loss, loss * math.exp(-half), loss * math.exp(half))

    def _log_slopes(self, features: object) -> tuple[Floats, Floats]:
        """Returns the loss [n], and the slopes of its logarithm in the coordinates of the search [n, p]."""
        loss_mn, slope_mnp = self._law.evaluate(self._theta_p[None], features)
        loss_n = np.maximum(loss_mn[0], SMALLEST_LOSS)
        return loss_n, slope_mnp[0] / loss_n[:, None] * self._scale_p


def drop_ahead(schedule: LrCurve, now: int, step: int) -> float:
    """Returns the lr drop until `step` over the drop until `now`, at least 1; 1 if the lr stays constant.

    The effect of a drop is fitted to the losses after it. So where little of it has been applied, the law's error at
    those losses grows by this factor: as much in the forecast of the first losses of a decay.
    """
    start = min(schedule.warmup_steps, now - 1)
    applied_n, until_n = schedule.lr[start:now], schedule.lr[start:step]
    drop, applied = until_n.max() - until_n.min(), applied_n.max() - applied_n.min()
    if drop < 0.02 * schedule.peak:
        return 1.0
    return float(drop / applied) if applied > 0 else math.inf


def _spacing(curve: LossCurve) -> float:
    return 1.5 * float(np.median(np.diff(curve.steps)))
