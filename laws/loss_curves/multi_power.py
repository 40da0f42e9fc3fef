"""The Multi-Power Law (Luo et al., arXiv 2503.12811).

    L(t) = L0 + A S(t)^-alpha - B sum_{k<=t} (lr_{k-1} - lr_k) G(lr_k^-gamma S_k(t)),   G(x) = 1 - (C x + 1)^-beta

S(t) is the sum of the lr up to t, warm-up included, S_k(t) that from step k to t. The sum runs over the warm-up too,
whose rises are negative: without them every prediction shifts by about B times the peak, and L0 means something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from laws.curve import EvaluationPoints, Floats, LrCurve
from laws.law import LAWS, Coefficient, CurveLaw, Shape, Slope
from laws.loss_curves.lr_drops import SMALLEST_OF_PEAK, elapsed, group_lr_drops, mean_kernel


@dataclass(frozen=True)
class DropFeatures:
    """S at the k points of one run; the clock from the start and the end of each of g lr drops to each point."""

    s1_k: Floats
    from_start_kg: Floats
    from_end_kg: Floats
    width_g: Floats
    log_lr_g: Floats
    drop_g: Floats


@LAWS.register
class MultiPowerConfig(CurveLaw):
    """The law's parameters are L0, A, B, alpha, beta, gamma and C."""

    name: Literal["multi_power"] = "multi_power"
    costly: ClassVar[bool] = True
    priors: bool = Field(
        True, description="pull beta and gamma softly to 0.6, where lr drops say little of a kernel's tail"
    )

    def coefficients(self) -> tuple[Coefficient, ...]:
        """Returns L0, A, B."""
        return (
            Coefficient("L0", 1, "the loss that is left"),
            Coefficient("A", 1, "of progress"),
            Coefficient("B", -1, "of the lr drops"),
        )

    def shapes(self) -> tuple[Shape, ...]:
        """Returns alpha, beta, gamma, C."""
        prior = (0.6, 0.1) if self.priors else None
        return (
            Shape("alpha", 0.0, 4.0, (0.3, 0.5, 0.7), "of progress"),
            Shape("beta", 0.05, 3.0, (0.4, 0.6), "of the kernel's tail", prior=prior),
            Shape("gamma", 0.0, 1.5, (0.4, 0.65), "how the kernel's speed depends on the lr", prior=prior),
            Shape("C", 1e-3, 1e3, (0.5, 2.0, 6.0), "the kernel's speed", log=True),
        )

    def features(self, points: Sequence[EvaluationPoints]) -> list[DropFeatures]:
        """Returns those of each run."""
        return [_features(at) for at in points]

    def terms(self, shape_mq: Floats, features: list[DropFeatures]) -> tuple[Floats, Floats]:
        """Returns 1, S^-alpha, and the sum over the lr drops."""
        points = sum(run.s1_k.size for run in features)
        phi = np.ones((shape_mq.shape[0], points, 3))
        slope = np.zeros((shape_mq.shape[0], points, 3, 4))
        log_s1 = np.log(np.concatenate([run.s1_k for run in features]))
        phi[:, :, 1] = np.exp(-shape_mq[:, :1] * log_s1)
        slope[:, :, 1, 0] = -phi[:, :, 1] * log_s1
        for row, (_, beta, gamma, speed) in enumerate(shape_mq):
            start = 0
            for run in features:
                stop = start + run.s1_k.size
                phi[row, start:stop, 2], slope[row, start:stop, 2, 1:] = _drop(run, beta, gamma, speed)
                start = stop
        return phi, slope

    def end_loss(self, theta_p: Floats, schedule: LrCurve, parameters: float | None = None) -> tuple[float, Slope]:
        """Returns the double sum at its last step only, and its slope, in O(n)."""
        l0, a, b, alpha, beta, gamma, speed = (float(x) for x in theta_p)
        lr_n = np.maximum(schedule.lr, SMALLEST_OF_PEAK * schedule.peak)
        s1 = float(lr_n.sum())
        since_n = np.cumsum(lr_n[::-1])[::-1]
        drop_n = -np.diff(lr_n, prepend=0.0)
        x_n = speed * lr_n**-gamma * since_n
        kernel_n = 1 - (1 + x_n) ** -beta

        def slope() -> Floats:
            by_x_n = beta * (1 + x_n) ** (-beta - 1)
            slope_n = kernel_n.copy()  # -d drop_k / d lr_k
            slope_n[:-1] -= kernel_n[1:]
            slope_n += drop_n * by_x_n * x_n * gamma / lr_n  # through lr_k^-gamma; its sign is that of -(-gamma)
            slope_n -= np.cumsum(drop_n * by_x_n * x_n / since_n)  # S_k holds every lr from k on
            by_lr_n: Floats = b * slope_n - alpha * a * s1 ** (-alpha - 1)
            return by_lr_n

        return l0 + a * s1**-alpha - b * float(drop_n @ kernel_n), slope


def _drop(run: DropFeatures, beta: float, gamma: float, speed: float) -> tuple[Floats, Floats]:
    """Returns the sum over the lr drops [k], and its derivatives by beta, gamma and speed [k, 3]."""
    scale_g = speed * np.exp(-gamma * run.log_lr_g)
    mean, by_beta, by_log_scale = mean_kernel(
        run.from_start_kg * scale_g, run.from_end_kg * scale_g, run.width_g * scale_g, beta
    )
    by_gamma_k = -by_log_scale @ (run.drop_g * run.log_lr_g)
    return mean @ run.drop_g, np.stack([by_beta @ run.drop_g, by_gamma_k, by_log_scale @ run.drop_g / speed], axis=1)


def _features(at: EvaluationPoints) -> DropFeatures:
    drops = group_lr_drops(at.schedule)
    clock_n = np.cumsum(at.schedule.lr)
    edges = np.stack([drops.start_g, drops.end_g])
    at_edges = np.interp(edges, np.arange(clock_n.size + 1.0), np.concatenate([[0.0], clock_n]))
    return DropFeatures(
        s1_k=clock_n[at.steps - 1],
        from_start_kg=elapsed(clock_n, drops.start_g, at.steps),
        from_end_kg=elapsed(clock_n, drops.end_g, at.steps),
        width_g=at_edges[1] - at_edges[0],
        log_lr_g=np.log(drops.lr_g),
        drop_g=drops.drop_g,
    )
