"""The uncertainty of a fit: it is repeated with other weights on the losses (Bayesian bootstrap, Rubin 1981).

Residuals of one curve are correlated over neighbouring losses (one model, one stretch of data), so losses are weighted
in blocks as long as their correlation reaches. Weights leave each loss where it is: where a law misses (just after a
jump of the lr, say), reshuffled residuals would bias every repeat. Where a prior holds a parameter, its centre is drawn
anew each time: else a parameter the data say nothing of would look certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from pydantic import PrivateAttr
from scipy.stats import t as student

from laws.curve import Floats
from laws.fitting.correlation import Correlation, correlation
from laws.fitting.solver import HUBER_DELTA, Problem
from laws.law import SMALLEST_LOSS, Coefficient, LawConfig, Shape

LEVEL = 0.9  # of the intervals that are reported
MOST_VARIANCE = 3.0  # of the weights; larger ones would leave a fit to a few losses
_CHUNK = 50


def resampled_parameters(
    law: LawConfig,
    features: Any,
    loss_n: Floats,
    theta_p: Floats,
    *,
    lengths: Sequence[int],
    count: int,
    seed: int = 0,
) -> Floats:
    """Returns `count` parameter sets [count, p], each refined from the best one with the losses weighted anew.

    `lengths`: how many of the n losses belong to each curve, in order.
    """
    rng = np.random.default_rng(seed)
    predicted_mn, _ = law.evaluate(theta_p[None], features)
    repeated = tangent(law, features, theta_p) if law.costly else law
    residual_n = np.log(loss_n) - np.log(np.maximum(predicted_mn[0], SMALLEST_LOSS))
    pull_n = np.clip(residual_n, -HUBER_DELTA, HUBER_DELTA)  # the part of a residual that moves the fit
    correlated = correlation(np.split(pull_n, np.cumsum(lengths)[:-1]))
    leverage_n = Problem(law, features, np.log(loss_n)).leverage(theta_p)
    found: list[Floats] = []
    for first in range(0, count, _CHUNK):
        size = min(_CHUNK, count - first)
        weights_mn = block_weights(lengths, correlated, leverage_n, size, rng)
        problem = Problem(repeated, features, np.log(loss_n), weights_mn=weights_mn)
        problem.redraw_priors(rng, size)
        theta_mp, _ = problem.refine(np.repeat(theta_p[None], size, axis=0))
        found.append(theta_mp)
    return np.concatenate(found) if found else np.empty((0, theta_p.size))


class _Tangent(LawConfig):
    """A law as its tangent at one point, in the logarithms of the loss and of what is searched by its logarithm."""

    name: str = "tangent"
    _law: LawConfig = PrivateAttr()
    _theta_p: Floats = PrivateAttr()
    _loss_n: Floats = PrivateAttr()
    _slope_np: Floats = PrivateAttr()  # of log loss

    def coefficients(self) -> tuple[Coefficient, ...]:
        return self._law.coefficients()

    def shapes(self) -> tuple[Shape, ...]:
        return self._law.shapes()

    def evaluate(self, theta_mp: Floats, features: Any) -> tuple[Floats, Floats]:
        log_p = np.array([False] * len(self.coefficients()) + [shape.log for shape in self.shapes()])
        # Only what is searched by its logarithm is above 0 for sure: the quotients are of that alone.
        ratio_mp = np.where(log_p, theta_mp, 1.0) / np.where(log_p, self._theta_p, 1.0)
        away_mp = np.where(log_p, self._theta_p * np.log(ratio_mp), theta_mp - self._theta_p)
        loss_mn = self._loss_n * np.exp(np.clip(away_mp @ self._slope_np.T, -5, 5))
        chain_mp = 1 / ratio_mp
        return loss_mn, loss_mn[:, :, None] * self._slope_np * chain_mp[:, None, :]


def tangent(law: LawConfig, features: Any, theta_p: Floats) -> LawConfig:
    """Returns the tangent of a law at theta_p: its bootstrap costs one evaluation in all."""
    loss_mn, slope_mnp = law.evaluate(theta_p[None], features)
    made = _Tangent()
    made._law, made._theta_p, made._loss_n = law, theta_p, loss_mn[0]
    made._slope_np = slope_mnp[0] / loss_mn[0][:, None]
    return made


def block_weights(
    lengths: Sequence[int], correlated: Correlation, leverage_n: Floats, count: int, rng: np.random.Generator
) -> Floats:
    """Returns gamma weights of mean 1 for the losses of all curves [count, n], equal within a block of a curve.

    A block is twice as long as the correlation. The weights' variance makes up for the correlation that blocks do not
    count, for the share of a block's noise that the fit follows (its leverage h: 1 / (1 - h), as HC2 of MacKinnon and
    White 1985), and for the uncertainty of the noise (Student's t, with as many degrees of freedom as blocks are left).
    """
    blocks = [_block(correlated, length) for length in lengths]
    number = sum(length / block for length, block in zip(lengths, blocks, strict=True))
    freedom = max(number - float(leverage_n.sum()), 2.0)
    uncertain = (student.ppf((1 + LEVEL) / 2, freedom) / NormalDist().inv_cdf((1 + LEVEL) / 2)) ** 2
    parts = []
    for length, block, leverage_k in zip(lengths, blocks, np.split(leverage_n, np.cumsum(lengths)[:-1]), strict=True):
        offset = rng.integers(0, block, size=(count, 1))  # blocks begin at random
        edges = np.clip(np.arange(-(-length // block) + 2) * block - offset, 0, length)
        within = np.diff(np.concatenate([[0.0], np.cumsum(leverage_k)])[edges], axis=1)  # the leverage of each block
        share = np.minimum(within * block / np.maximum(np.diff(edges, axis=1), 1), 0.9)
        variance = np.minimum(uncertain / correlated.share_within(block) / (1 - share), MOST_VARIANCE)
        drawn = rng.gamma(1 / variance, variance)
        parts.append(np.take_along_axis(drawn, (np.arange(length) + offset) // block, axis=1))
    return np.concatenate(parts, axis=1)


def _block(correlated: Correlation, length: int) -> int:
    if correlated.at_lag.size == 0:
        return 1
    return max(1, min(round(2 * correlated.steps), length // 4))


def interval(samples_b: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Returns the central interval of samples [b] at a level."""
    low, high = np.quantile(samples_b, [(1 - level) / 2, (1 + level) / 2], method="weibull")
    return float(low), float(high)


def parameter_intervals(
    names: Iterable[str], samples: Sequence[Sequence[float]], level: float = LEVEL
) -> dict[str, tuple[float, float]]:
    """Returns the interval of each parameter at a level, by name; empty without samples."""
    if not samples:
        return {}
    return {name: interval(column, level) for name, column in zip(names, np.array(samples).T, strict=True)}
