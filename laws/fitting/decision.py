"""Decisions between two runs: the probability that one ends lower, and how often small runs decide as large ones do."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from laws.curve import EvaluationPoints, Floats
from laws.fitting.fitted import Fit
from laws.law import SMALLEST_LOSS
from settings import UserError


def probability_lower(fit: Fit, first: EvaluationPoints, second: EvaluationPoints) -> float:
    """Returns the probability that the run `first` has a lower last loss than `second`, as the fit sees it.

    The parameters are common to both runs, so their spread counts in the difference only. The noise of single losses
    and the error of the law count for each run. Raises UserError for a fit without bootstrap samples.
    """
    if not fit.samples:
        raise UserError("the probability of an order needs a fit with bootstrap samples: fit with samples > 0")
    spread_b, middle = _log_difference(fit, np.array(fit.samples), first, second), _difference(fit, first, second)
    growths = [fit.error_growth(points)[-1] for points in (first, second)]
    missed = sum((fit.law_error * growth) ** 2 + fit.noise**2 for growth in growths)
    scale = float(np.sqrt(np.var(spread_b) + missed))
    return float(norm.cdf(-middle / max(scale, 1e-12)))


def _difference(fit: Fit, first: EvaluationPoints, second: EvaluationPoints) -> float:
    return float(_log_difference(fit, fit.theta_p[None], first, second)[0])


def _log_difference(fit: Fit, theta_bp: Floats, first: EvaluationPoints, second: EvaluationPoints) -> Floats:
    """Returns log last loss of the first less that of the second, for each parameter set [b]."""
    ends = []
    for points in (first, second):
        loss_bk, _ = fit.law.evaluate(theta_bp, fit.law.features([points]))
        ends.append(np.log(np.maximum(loss_bk[:, -1], SMALLEST_LOSS)))
    difference: Floats = ends[0] - ends[1]
    return difference


@dataclass(frozen=True)
class DecisionAccuracy:
    """How often small runs order two recipes as the large ones do, and the error over the spread of the losses."""

    pairs: int
    agreed: int
    skill: float  # mean |error| over the standard deviation of the large losses; under 1 tells them apart

    @property
    def share(self) -> float:
        """The share of pairs on which small and large agree."""
        return self.agreed / self.pairs


def decision_accuracy(small: Mapping[str, float], large: Mapping[str, float]) -> DecisionAccuracy:
    """Compares the last losses of the same recipes at a small and a large size.

    The error of a recipe is its log loss relative to the mean of the recipes, small less large: a common offset decides
    nothing. Raises UserError unless both have the same recipes, two or more.
    """
    if set(small) != set(large) or len(small) < 2:
        raise UserError("a comparison of decisions needs the same recipes at both sizes, at least two")
    names = sorted(small)
    pairs = list(itertools.combinations(names, 2))
    agreed = sum((small[a] - small[b]) * (large[a] - large[b]) > 0 for a, b in pairs)
    logs = np.log(np.array([[each[name] for name in names] for each in (small, large)]))
    error, spread = np.abs(np.diff(logs - logs.mean(axis=1, keepdims=True), axis=0)).mean(), logs[1].std()
    return DecisionAccuracy(len(pairs), agreed, float(error / max(spread, 1e-12)))
