"""The annealing law over model sizes: L = L0 + A S1^-alpha + B N^-beta - C N^gamma S2.

UNVERIFIED: the extension is known to us from memory of arXiv 2408.11029, not checked against its text or its data.
It says that the drop of annealing grows with the number of parameters N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from laws.curve import EvaluationPoints, Floats, LossCurve, LrCurve
from laws.law import LAWS, Coefficient, LawConfig, Shape, Slope
from laws.loss_curves.annealing import AnnealedConfig, AnnealingFeatures
from settings import UserError


@dataclass(frozen=True)
class SizedFeatures:
    """The schedule's features and log N of n points."""

    schedule: AnnealingFeatures
    log_size_n: Floats


@LAWS.register
class AnnealingSizeConfig(AnnealedConfig):
    """The unverified law over sizes; it needs curves of at least three sizes, each with its `parameters`."""

    name: Literal["annealing_size"] = "annealing_size"
    spans_sizes: ClassVar[bool] = True

    @classmethod
    def examples(cls) -> tuple[LawConfig, ...]:
        """Returns lambda fixed and fitted."""
        return (cls(), cls(fit_decay=True))

    def coefficients(self) -> tuple[Coefficient, ...]:
        """Returns L0, A, C, B."""
        return (
            Coefficient("L0", 1, "the loss that is left"),
            Coefficient("A", 1, "of progress"),
            Coefficient("C", -1, "of annealing"),
            Coefficient("B", 1, "of size"),
        )

    def shapes(self) -> tuple[Shape, ...]:
        """Returns alpha, 1 - lambda if it is fitted, beta, gamma."""
        return (
            Shape("alpha", 0.0, 4.0, (0.3, 0.45, 0.6), "of progress"),
            *self.decay_shape(),
            Shape("beta", 0.0, 2.0, (0.1, 0.2, 0.3, 0.4), "of size"),
            Shape("gamma", 0.0, 1.0, (0.0, 0.1, 0.2, 0.4), "how the drop grows with size"),
        )

    def check(self, curves: Sequence[LossCurve]) -> None:
        """Raises UserError for fewer than three sizes."""
        super().check(curves)
        sizes = {curve.parameters for curve in curves if curve.parameters is not None}
        if len(sizes) < 3:
            raise UserError(
                f"the {self.name} law needs curves of at least 3 model sizes, each with its number of parameters; "
                f"these have {len(sizes)}"
            )

    def features(self, points: Sequence[EvaluationPoints]) -> SizedFeatures:  # type: ignore[override]  # its own features
        """Returns S1, S2 and log N of all points."""
        for at in points:
            if at.parameters is None:
                raise UserError(f"the {self.name} law needs the number of parameters of every model")
        log_sizes = [np.full(at.steps.size, np.log(float(at.parameters or 1.0))) for at in points]
        return SizedFeatures(super().features(points), np.concatenate(log_sizes))

    def terms(self, shape_mq: Floats, features: SizedFeatures) -> tuple[Floats, Floats]:
        """Returns 1, S1^-alpha, N^gamma S2, N^-beta."""
        count, points, shapes = shape_mq.shape[0], features.log_size_n.size, shape_mq.shape[1]
        beta_at, gamma_at = shapes - 2, shapes - 1
        log_s1, log_size = np.log(features.schedule.s1_n), features.log_size_n
        phi = np.ones((count, points, 4))
        slope = np.zeros((count, points, 4, shapes))
        phi[:, :, 1] = np.exp(-shape_mq[:, :1] * log_s1)
        slope[:, :, 1, 0] = -phi[:, :, 1] * log_s1
        s2_mn, by_forgetting = self.s2(shape_mq, 1, features.schedule)
        grown_mn = np.exp(shape_mq[:, gamma_at, None] * log_size)
        phi[:, :, 2] = grown_mn * s2_mn
        slope[:, :, 2, gamma_at] = phi[:, :, 2] * log_size
        if self.fit_decay:
            slope[:, :, 2, 1] = grown_mn * by_forgetting
        phi[:, :, 3] = np.exp(-shape_mq[:, beta_at, None] * log_size)
        slope[:, :, 3, beta_at] = -phi[:, :, 3] * log_size
        return phi, slope

    def end_loss(self, theta_p: Floats, schedule: LrCurve, parameters: float | None = None) -> tuple[float, Slope]:
        """Returns that of the annealing law, with the coefficients of the model's size."""
        if parameters is None:
            raise UserError(f"the {self.name} law needs the number of parameters of the model")
        l0, a, c, b = (float(x) for x in theta_p[:4])
        beta, gamma = float(theta_p[-2]), float(theta_p[-1])
        same = np.concatenate([[l0 + b * parameters**-beta, a, c * parameters**gamma], theta_p[4:-2]])
        return self.annealed_end(same, schedule)
