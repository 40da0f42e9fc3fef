"""The relaxation law: a noise floor that follows the lr with a lag, and sinks as training goes on.

    L(t) = L0 + A S(t)^-alpha - B S(t)^-rho sum_{k<=t} (u_{k-1}^q - u_k^q) G(C T_k(t)),   G(x) = 1 - (1 + x)^-beta

u is the lr over that of reference (a fit's is the largest lr of its curves), S the reference lr times the sum of u^r,
warm-up included, and T_k the sum of u^p from step k on. So the loss is progress plus noise: at a constant lr the noise
settles at B S^-rho u^q; after a change of the lr it relaxes to its new level, fast at first and with a long tail, by a
clock that runs slower at a low lr. Re-warming raises it again.

It is the Multi-Power Law (arXiv 2503.12811) with four changes that the residuals of the others ask for (docs/laws.md):
progress and the level of the noise are concave in the lr (r < 1, q < 1), the noise sinks with progress (rho > 0; laws
without it promise long runs too much), and the clock belongs to the run, not to each drop, so that cosines and jumps
share one kernel. The exponents are constants: q, p, beta, rho chosen by cross-validation on public curves (fits on one
model size, tests on the other), r on small runs of lehr; five parameters are fitted. Kindred: the functional scaling
law (arXiv 2509.19189), with p = q = r = 1 and rho = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, Self

import numpy as np
from pydantic import Field
from scipy.interpolate import CubicSpline

from laws.curve import EvaluationPoints, Floats, LrCurve
from laws.law import LAWS, Coefficient, CurveLaw, Shape, Slope
from laws.loss_curves.lr_drops import SMALLEST_OF_PEAK, elapsed, group_lr_drops, mean_kernel, mean_kernel_value

REFERENCE_LR = 3e-4  # of a law that was not fitted
SLOWEST, FASTEST = 1e-5, 10.0  # of C, per step at the reference lr
TYPICAL = 0.02
_NODES = np.linspace(math.log(SLOWEST), math.log(FASTEST), 35)


class RelaxationFeatures:
    """S ("progress") of n points, and the sum over the lr drops as a function of C."""

    def __init__(
        self,
        points: Sequence[EvaluationPoints],
        *,
        progress_power: float,
        level_power: float,
        clock_power: float,
        beta: float,
        reference_lr: float | None,
    ) -> None:
        """`reference_lr`: the lr of which u is the share; None: the peak of each schedule."""
        self._beta = beta
        self._runs: list[tuple[Floats, Floats, Floats, Floats]] = []
        progress: list[Floats] = []
        for at in points:
            reference = at.schedule.peak if reference_lr is None else reference_lr
            drops, u_n = group_lr_drops(at.schedule), scaled_lr(at.schedule, reference)
            clock_n = np.cumsum(u_n**clock_power)
            edges = np.interp(
                np.stack([drops.start_g, drops.end_g]), np.arange(clock_n.size + 1.0), np.append(0.0, clock_n)
            )
            from_start, from_end = (elapsed(clock_n, edge_g, at.steps) for edge_g in (drops.start_g, drops.end_g))
            self._runs.append((from_start, from_end, edges[1] - edges[0], drops.of(u_n**level_power)))
            progress.append(reference * np.cumsum(u_n**progress_power)[at.steps - 1])
        self.progress_n = np.concatenate(progress)

    def relaxed(self, speed_m: Floats) -> tuple[Floats, Floats]:
        """Returns the sum over the lr drops [m, n], and its derivative by the log of C. One C at a time is exact."""
        if speed_m.size == 1:
            value_n, slope_n = self._exact(float(speed_m[0]))
            return value_n[None], slope_n[None]
        log_m = np.log(speed_m)
        value_mn, slope_mn = self._spline(log_m), self._spline(log_m, 1)
        return value_mn, slope_mn

    @cached_property
    def _spline(self) -> CubicSpline:
        """The sum over log C, within 3e-6."""
        return CubicSpline(_NODES, np.stack([self._value(math.exp(node)) for node in _NODES]), axis=0)

    def _value(self, speed: float) -> Floats:
        if abs(self._beta - 1) < 1e-3:
            return self._exact(speed)[0]
        return np.concatenate(
            [
                mean_kernel_value(from_start * speed, from_end * speed, width_g * speed, self._beta) @ drop_g
                for from_start, from_end, width_g, drop_g in self._runs
            ]
        )

    def _exact(self, speed: float) -> tuple[Floats, Floats]:
        values, slopes = [], []
        for from_start, from_end, width_g, drop_g in self._runs:
            mean, _, by_log = mean_kernel(from_start * speed, from_end * speed, width_g * speed, self._beta)
            values.append(mean @ drop_g)
            slopes.append(by_log @ drop_g)
        return np.concatenate(values), np.concatenate(slopes)


def scaled_lr(schedule: LrCurve, reference_lr: float) -> Floats:
    """Returns u of every step [n]; an lr near 0 counts as 1e-4 of the peak, where powers have slopes."""
    return np.maximum(schedule.lr, SMALLEST_OF_PEAK * schedule.peak) / reference_lr


@LAWS.register
class RelaxationConfig(CurveLaw):
    """The law's parameters are L0, A, B, alpha and C; the exponents are constants."""

    name: Literal["relaxation"] = "relaxation"
    progress_power: float = Field(0.85, gt=0, le=2, description="r: how a step's progress goes with the lr")
    level_power: float = Field(0.8, gt=0, le=2, description="q: how the level of the noise goes with the lr")
    clock_power: float = Field(0.35, ge=0, le=2, description="p: how the speed of relaxation goes with the lr")
    beta: float = Field(0.5, gt=0, le=5, description="of the kernel's tail")
    rho: float = Field(0.1, ge=0, le=1, description="how the noise sinks with progress")
    reference_lr: float = Field(REFERENCE_LR, gt=0, description="of B and C; a fit takes the largest of its curves")

    def suited(self, curves: Sequence[EvaluationPoints]) -> Self:
        """Returns the law with the largest lr of the curves as the reference."""
        return self.model_copy(update={"reference_lr": max(curve.schedule.peak for curve in curves)})

    def coefficients(self) -> tuple[Coefficient, ...]:
        """Returns L0, A, B."""
        return (
            Coefficient("L0", 1, "the loss that is left"),
            Coefficient("A", 1, "of progress"),
            Coefficient("B", -1, "of noise: its level at reference_lr and S = 1"),
        )

    def shapes(self) -> tuple[Shape, ...]:
        """Returns alpha, C."""
        speeds = (1e-3, 5e-3, 2e-2, 1e-1)
        prior = (math.log(TYPICAL), 1.0)
        return (
            Shape("alpha", 0.0, 4.0, (0.15, 0.3, 0.4, 0.5, 0.6, 0.8, 1.1), "of progress"),
            Shape("C", SLOWEST, FASTEST, speeds, "speed of relaxation, a step at reference_lr", log=True, prior=prior),
        )

    def features(self, points: Sequence[EvaluationPoints]) -> RelaxationFeatures:
        """Returns S, and the lr drops before every point."""
        return RelaxationFeatures(
            points,
            progress_power=self.progress_power,
            level_power=self.level_power,
            clock_power=self.clock_power,
            beta=self.beta,
            reference_lr=self.reference_lr,
        )

    def terms(self, shape_mq: Floats, features: RelaxationFeatures) -> tuple[Floats, Floats]:
        """Returns 1, S^-alpha, and S^-rho times the sum over the drops."""
        log_s = np.log(features.progress_n)
        phi = np.ones((shape_mq.shape[0], log_s.size, 3))
        slope = np.zeros((*phi.shape, 2))
        phi[:, :, 1] = np.exp(-shape_mq[:, :1] * log_s)
        slope[:, :, 1, 0] = -phi[:, :, 1] * log_s
        sinking_n = np.exp(-self.rho * log_s)
        relaxed_mn, by_log_speed = features.relaxed(shape_mq[:, 1])
        phi[:, :, 2] = sinking_n * relaxed_mn
        slope[:, :, 2, 1] = sinking_n * by_log_speed / shape_mq[:, 1:]
        return phi, slope

    def end_loss(self, theta_p: Floats, schedule: LrCurve, parameters: float | None = None) -> tuple[float, Slope]:
        """Returns the sum at its last step only, and its slope, in O(n)."""
        l0, a, b, alpha, speed = (float(x) for x in theta_p)
        u_n = scaled_lr(schedule, self.reference_lr)
        progress_n = self.reference_lr * u_n**self.progress_power
        s = float(progress_n.sum())
        level_n = u_n**self.level_power
        x_n = speed * np.cumsum((u_n**self.clock_power)[::-1])[::-1]
        drop_n = -np.diff(level_n, prepend=0.0)
        kernel_n = 1 - (1 + x_n) ** -self.beta
        relaxed, noise = float(drop_n @ kernel_n), b * s**-self.rho

        def slope() -> Floats:
            by_x_n = self.beta * (1 + x_n) ** (-self.beta - 1)
            by_level_n = -kernel_n  # of the sum over the drops
            by_level_n[:-1] += kernel_n[1:]
            slope_n = by_level_n * self.level_power * level_n / u_n
            slope_n += np.cumsum(drop_n * by_x_n) * speed * self.clock_power * u_n ** (self.clock_power - 1)
            by_s = -alpha * a * s ** (-alpha - 1) + self.rho * noise * relaxed / s
            by_u_n = by_s * self.progress_power * progress_n / u_n - noise * slope_n
            by_lr_n: Floats = by_u_n / self.reference_lr
            return by_lr_n

        return l0 + a * s**-alpha - noise * relaxed, slope
