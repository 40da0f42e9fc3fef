"""The LR-annealing law (Tissue et al., arXiv 2408.11029): L(s) = L0 + A S1^-alpha - C S2.

S1(s) is the sum of the lr up to step s. The momentum m_i = lambda m_{i-1} + (lr_{i-1} - lr_i) remembers the drops of
the lr, and S2(s) is its sum: how far annealing has gone. A rise of the lr (re-warming) gives negative momentum.

Warm-up: its rises count for nothing in S2. In S1 its steps count with their lr ("actual") or with the largest ("peak",
as in section 3.4 of the paper). alpha is not comparable between the two, nor C between values of lambda.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field
from scipy.interpolate import CubicSpline
from scipy.signal import lfilter

from laws.curve import EvaluationPoints, Floats, LrCurve
from laws.law import LAWS, Coefficient, CurveLaw, LawConfig, Shape, Slope

LAMBDAS = 1 - np.exp(np.linspace(np.log(3e-5), np.log(0.1), 25))


@dataclass(frozen=True)
class AnnealingFeatures:
    """S1 and S2 of n points; S2 at a fixed lambda, or as a curve over log(1 - lambda)."""

    s1_n: Floats
    s2_n: Floats
    s2_spline: CubicSpline | None


def lr_drops(lr_n: Floats, warmup_steps: int) -> Floats:
    """Returns lr_{i-1} - lr_i of every step [n]; 0 in the warm-up and at its end."""
    gaps_n = np.empty_like(lr_n)
    gaps_n[0] = 0.0
    np.subtract(lr_n[:-1], lr_n[1:], out=gaps_n[1:])
    gaps_n[:warmup_steps] = 0.0
    return gaps_n


def area_of_annealing(schedule: LrCurve, decay: float) -> Floats:
    """Returns S2 after every step [n]: a double running sum as one linear filter, O(n)."""
    momentum_n = lfilter([1.0], [1.0, -decay], lr_drops(schedule.lr, schedule.warmup_steps))
    area_n: Floats = np.cumsum(momentum_n)
    return area_n


def area_under_lr(schedule: LrCurve, warmup: Literal["actual", "peak"]) -> Floats:
    """Returns S1 after every step [n]."""
    lr_n = schedule.lr
    if warmup == "peak" and schedule.warmup_steps:
        lr_n = lr_n.copy()
        lr_n[: schedule.warmup_steps] = schedule.peak
    area_n: Floats = np.cumsum(lr_n)
    return area_n


class AnnealedConfig(CurveLaw):
    """The annealing law and its extension over model size: the settings and features that they share."""

    warmup: Literal["actual", "peak"] = Field(
        "actual",
        description="The lr that S1 counts for steps of the warm-up: their own (actual), or the peak lr (peak).",
    )
    decay: float = Field(0.999, gt=0, lt=1, description="lambda, the share of the momentum that is left after a step.")
    fit_decay: bool = Field(False, description="Whether lambda is fitted as well; loss curves identify it weakly.")

    def decay_shape(self) -> tuple[Shape, ...]:
        """Returns lambda as 1 - lambda (searched by its logarithm) if it is fitted."""
        if not self.fit_decay:
            return ()
        grid = (3e-4, 1e-3, 3e-3)
        return (Shape("one_minus_lambda", 1 - LAMBDAS[0], 1 - LAMBDAS[-1], grid, "forgetting of a step", log=True),)

    def features(self, points: Sequence[EvaluationPoints]) -> AnnealingFeatures:
        """Returns S1 and S2 of all points."""
        s1_n = np.concatenate([area_under_lr(at.schedule, self.warmup)[at.steps - 1] for at in points])
        if not self.fit_decay:
            s2 = [area_of_annealing(at.schedule, self.decay)[at.steps - 1] for at in points]
            return AnnealingFeatures(s1_n, np.concatenate(s2), None)
        rows = [[area_of_annealing(at.schedule, decay)[at.steps - 1] for decay in LAMBDAS] for at in points]
        table = np.concatenate([np.stack(row, axis=1) for row in rows])
        return AnnealingFeatures(s1_n, table[:, 0], CubicSpline(np.log(1 - LAMBDAS), table, axis=1))

    def s2(self, shape_mq: Floats, index: int, features: AnnealingFeatures) -> tuple[Floats, Floats]:
        """Returns S2 [m or 1, n] and its derivative by 1 - lambda."""
        if features.s2_spline is None:
            return features.s2_n[None], np.zeros((1, features.s2_n.size))
        forgetting_m = shape_mq[:, index]
        s2_mn = features.s2_spline(np.log(forgetting_m)).T
        return s2_mn, features.s2_spline(np.log(forgetting_m), 1).T / forgetting_m[:, None]

    def annealed_end(self, theta_p: Floats, schedule: LrCurve) -> tuple[float, Slope]:
        """Returns the end of L0 + A S1^-alpha - C S2 for (L0, A, C, alpha, 1 - lambda if fitted), and its slope.

        S2 at the end is a weighted sum of the lr drops: weights (1 - lambda^(n-k+1)) / (1 - lambda).
        """
        l0, a, c, alpha = (float(x) for x in theta_p[:4])
        decay = 1 - float(theta_p[4]) if self.fit_decay else self.decay
        lr_n, warmup_steps = schedule.lr, schedule.warmup_steps
        s1 = float(area_under_lr(schedule, self.warmup)[-1])
        reach_n = _reach(lr_n.size, decay).copy()
        reach_n[: max(warmup_steps, 1)] = 0.0
        s2 = float(reach_n @ lr_drops(lr_n, warmup_steps))

        def slope() -> Floats:
            by_s1 = -alpha * a * s1 ** (-alpha - 1)
            slope_n = np.full(lr_n.size, by_s1)
            if self.warmup == "peak":  # the warm-up's steps count with the peak: their share of the slope is the peak's
                slope_n[:warmup_steps] = 0.0
                slope_n[int(np.argmax(lr_n))] += by_s1 * warmup_steps
            slope_n += c * reach_n  # d drop_k / d lr_k = -1
            slope_n[:-1] -= c * reach_n[1:]
            return slope_n

        return l0 + a * s1**-alpha - c * s2, slope


@functools.lru_cache(maxsize=4)
def _reach(steps: int, decay: float) -> Floats:
    """Returns what a drop at each step adds to S2 by the end, as a share of its size [n].

    A search asks for it thousands of times at one length.
    """
    reach_n = (1 - decay ** np.arange(steps, 0, -1.0)) / (1 - decay)
    reach_n.setflags(write=False)
    return reach_n


@LAWS.register
class AnnealingConfig(AnnealedConfig):
    """L = L0 + A S1^-alpha - C S2."""

    name: Literal["annealing"] = "annealing"

    @classmethod
    def examples(cls) -> tuple[LawConfig, ...]:
        """Returns both warm-ups, and lambda fixed and fitted."""
        return (cls(), cls(warmup="peak"), cls(fit_decay=True))

    def coefficients(self) -> tuple[Coefficient, ...]:
        """Returns L0, A, C."""
        return (
            Coefficient("L0", 1, "the loss that is left"),
            Coefficient("A", 1, "of progress"),
            Coefficient("C", -1, "of annealing; comparable at equal lambda only"),
        )

    def shapes(self) -> tuple[Shape, ...]:
        """Returns alpha, and 1 - lambda if it is fitted."""
        grid = tuple(np.linspace(0.1, 1.3, 13))
        return (Shape("alpha", 0.0, 4.0, grid, "of progress"), *self.decay_shape())

    def terms(self, shape_mq: Floats, features: AnnealingFeatures) -> tuple[Floats, Floats]:
        """Returns 1, S1^-alpha, S2."""
        count, points = shape_mq.shape[0], features.s1_n.size
        log_s1 = np.log(features.s1_n)
        phi = np.ones((count, points, 3))
        slope = np.zeros((count, points, 3, shape_mq.shape[1]))
        phi[:, :, 1] = np.exp(-shape_mq[:, :1] * log_s1)
        slope[:, :, 1, 0] = -phi[:, :, 1] * log_s1
        phi[:, :, 2], by_forgetting = self.s2(shape_mq, 1, features)
        if self.fit_decay:
            slope[:, :, 2, 1] = by_forgetting
        return phi, slope

    def end_loss(self, theta_p: Floats, schedule: LrCurve, parameters: float | None = None) -> tuple[float, Slope]:
        """Returns the loss after the last step, and its slope, in O(n)."""
        return self.annealed_end(theta_p, schedule)
