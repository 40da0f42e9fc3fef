"""The uncertainty of a fit: it is repeated with other weights on the losses (Bayesian bootstrap, Rubin 1981).

Residuals of one curve are correlated over neighbouring losses (one model, one stretch of data), so losses are weighted
in blocks as long as their correlation reaches. Weights leave each loss where it is: where a law misses (just after a
jump of the lr, say), reshuffled residuals would bias every repeat. Where a prior holds a parameter, its centre is drawn
anew each time: else a parameter the data say nothing of would look certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import PrivateAttr

from laws.curve import Floats
from laws.fitting.solver import Problem
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
    curves = np.split(residual_n, np.cumsum(lengths)[:-1])
    freedom = loss_n.size / max(loss_n.size - theta_p.size, theta_p.size)  # a fit takes part of the noise away
    blocks = [(curve.size, *weight_blocks(curve)) for curve in curves]
    found: list[Floats] = []
    for first in range(0, count, _CHUNK):
        size = min(_CHUNK, count - first)
        parts = [_block_weights(length, block, size, freedom * lost, rng) for length, block, lost in blocks]
        weights_mn = np.concatenate(parts, axis=1)
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


def correlation_steps(residual_k: Floats) -> int:
    """Returns how many neighbouring residuals are correlated: the integrated autocorrelation, at least 1."""
    centred = residual_k - residual_k.mean()
    variance = float(centred @ centred)
    if residual_k.size < 8 or variance == 0:
        return 1
    total = 1.0
    for lag in range(1, residual_k.size // 4):
        correlation = float(centred[lag:] @ centred[:-lag]) / variance
        if correlation < 2 / np.sqrt(residual_k.size):  # no more than chance
            break
        total += 2 * correlation
    return max(1, min(round(total), residual_k.size // 4))


def weight_blocks(residual_k: Floats) -> tuple[int, float]:
    """Returns the length of the blocks of weights, and the variance that the weights need.

    Blocks of length b count a correlation over k losses only by 1 - k / b, so weights of variance 1 would lose a part
    of the variance of a mean (Lahiri 2003, Resampling Methods for Dependent Data, chapter 5). The correlations are
    those of the residuals as far as they exceed chance, and beyond that a geometric tail with the first one's ratio.
    """
    steps = correlation_steps(residual_k)
    block = max(1, min(2 * steps, residual_k.size // 4)) if steps > 1 else 1
    if block == 1:
        return 1, 1.0
    centred = residual_k - residual_k.mean()
    kept: list[float] = []
    for lag in range(1, residual_k.size // 4):
        correlation = float(centred[lag:] @ centred[:-lag]) / float(centred @ centred)
        if correlation < 2 / np.sqrt(residual_k.size):
            break
        kept.append(correlation)
    ratio = min(kept[0], 0.9)
    tail = kept[-1] * ratio ** np.arange(1, residual_k.size // 2)
    lag_k = np.arange(1, len(kept) + tail.size + 1)
    correlation_k = np.concatenate([kept, tail])
    counted = 1 + 2 * float(np.maximum(1 - lag_k / block, 0) @ correlation_k)
    return block, min((1 + 2 * float(correlation_k.sum())) / counted, MOST_VARIANCE)


def _block_weights(length: int, block: int, count: int, variance: float, rng: np.random.Generator) -> Floats:
    """Returns gamma weights of mean 1, equal within a block; blocks begin at random [count, length]."""
    blocks = -(-length // block) + 1
    number = (np.arange(length) + rng.integers(0, block, size=(count, 1))) // block
    return np.take_along_axis(rng.gamma(1 / variance, variance, size=(count, blocks)), number, axis=1)


def interval(samples_b: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Returns the central interval of samples [b] at a level."""
    low, high = np.quantile(samples_b, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
