"""Ridge regression whose penalty is chosen by leaving one out, with closed forms for what is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Float64s: TypeAlias = npt.NDArray[np.float64]
_PENALTIES = 10.0 ** np.arange(-7, 2)  # relative to the mean eigenvalue
_LEAST_REMAINDER = 1e-12  # of 1 - leverage, which is 0 if there is but one row


@dataclass(frozen=True)
class RidgeFit:
    """A linear model; `left_out_predictions` [rows] are those of the fit to all other rows."""

    coefficients: Float64s  # [features]
    intercept: float
    left_out_predictions: Float64s


def fit_ridge(features: Float64s, targets: Float64s, prior_scales: Float64s | float = 1.0) -> RidgeFit:
    """Fit targets [rows] by features [rows, features], which are standardised; constant features get 0.

    The coefficients of standardised features are expected to be of like size, or like `prior_scales` [features].

    The penalty is the one with the least squared error of left-out rows (Hastie et al., The Elements of Statistical
    Learning, section 7.10: the prediction without a row follows from its leverage).
    """
    means, deviations = features.mean(axis=0), features.std(axis=0)
    varies = deviations > 1e-9 * (np.abs(means) + 1e-9)
    scales = deviations / prior_scales
    standardised = (features[:, varies] - means[varies]) / scales[varies]
    centre = float(targets.mean())
    left, singular, right = np.linalg.svd(standardised, full_matrices=False)
    projected = left.T @ (targets - centre)
    power = singular**2
    best: tuple[float, Float64s, Float64s] | None = None
    for penalty in _PENALTIES * power.mean() if power.size else ():
        shrink = power / (power + penalty)
        remainder = np.maximum(1 - 1 / len(targets) - (left**2) @ shrink, _LEAST_REMAINDER)
        residuals = (targets - centre - left @ (shrink * projected)) / remainder
        error = float((residuals**2).mean())
        if best is None or error < best[0]:
            weights = right.T @ (singular / (power + penalty) * projected)
            best = (error, weights / scales[varies], targets - residuals)
    coefficients = np.zeros(features.shape[1])
    if best is None:  # no feature varies
        return RidgeFit(coefficients, centre, np.full(len(targets), centre))
    coefficients[varies] = best[1]
    return RidgeFit(coefficients, centre - float(means @ coefficients), best[2])
