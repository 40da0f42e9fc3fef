"""The contract of a law of the loss: a sum of few terms, linear in its coefficients, given the shape of each term.

    L = sum_j sign_j * c_j * phi_j(x; shape, L),   c_j >= 0

All laws of this room have this form, so one fit serves all: for a given shape the coefficients are a linear
least-squares problem (variable projection), and gradients follow from those of phi. A constant is the term phi = 1; a
law need not have one. In most laws the terms do not depend on the loss; in an `ImplicitLaw` they do, and the loss is
the root of the equation.

Legend of shapes: m parameter sets at once, n points, k terms, q shape parameters, p = k + q parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from laws.curve import EvaluationPoints, Floats, LossCurve, LrCurve
from settings import Registry, Settings, UserError

Slope = Callable[[], Floats]

FLOPS_PER_PARAMETER_TOKEN = 6.0  # forward 2, backward 4
SMALLEST_LOSS = 1e-6  # a law may dip below 0 far from its data; its logarithm may not
_MOST_NEWTON_STEPS = 60


@dataclass(frozen=True)
class Coefficient:
    """A linear parameter, at least 0; its term is `sign * value * phi`."""

    name: str
    sign: int
    meaning: str


@dataclass(frozen=True)
class Shape:
    """A parameter that bends a term. `prior` (centre, width) pulls it softly where the data say little."""

    name: str
    lower: float
    upper: float
    grid: tuple[float, ...]  # where fits start
    meaning: str
    log: bool = False  # searched by its logarithm
    prior: tuple[float, float] | None = None  # in the coordinate that is searched


class LawConfig(Settings):
    """A law: its parameters, and its terms as functions of the features of the data."""

    name: str
    spans_sizes: ClassVar[bool] = False  # its evaluation points need the number of parameters of the model
    spans_batches: ClassVar[bool] = False  # and the tokens of a step
    costly: ClassVar[bool] = False  # an evaluation takes milliseconds: the bootstrap then uses the tangent

    @classmethod
    def examples(cls) -> tuple[LawConfig, ...]:
        """Returns configs of every kind, for the contract tests."""
        return (cls.model_validate({}),)

    def coefficients(self) -> tuple[Coefficient, ...]:
        """Returns the linear parameters; the first is the constant, if there is one."""
        raise AssertionError(f"{type(self).__name__} has no coefficients")

    def shapes(self) -> tuple[Shape, ...]:
        """Returns the shape parameters."""
        raise AssertionError(f"{type(self).__name__} has no shapes")

    def terms(self, shape_mq: Floats, features: Any) -> tuple[Floats, Floats]:
        """Returns phi [m, n, k] and its derivative by the (unlogged) shape parameters [m, n, k, q]."""
        raise AssertionError(f"{type(self).__name__} has no terms")

    def terms_of_losses(self, shape_mq: Floats, features: Any, loss_n: Floats) -> Floats:
        """Returns phi [m, n, k] where the losses are known [n]: starts of a fit come from it."""
        return self.terms(shape_mq, features)[0]

    def parameter_names(self) -> tuple[str, ...]:
        """Returns the names of all parameters: coefficients, then shapes."""
        return tuple(c.name for c in self.coefficients()) + tuple(s.name for s in self.shapes())

    def pack(self, values: Mapping[str, float]) -> Floats:
        """Returns values by name as an array [p]. Raises UserError for a missing or an unknown name."""
        names = self.parameter_names()
        if set(values) != set(names):
            raise UserError(f"the {self.name} law has the parameters {', '.join(names)}, not {', '.join(values)}")
        return np.array([float(values[name]) for name in names])

    def evaluate(self, theta_mp: Floats, features: Any) -> tuple[Floats, Floats]:
        """Returns the loss [m, n] and its derivatives [m, n, p] at m parameter sets."""
        count = len(self.coefficients())
        signed_mk = theta_mp[:, :count] * self.signs()
        phi_mnk, slope_mnkq = self.terms(theta_mp[:, count:], features)
        loss_mn = np.einsum("mnk,mk->mn", phi_mnk, signed_mk)
        by_shape = np.einsum("mnkq,mk->mnq", slope_mnkq, signed_mk)
        return loss_mn, np.concatenate([phi_mnk * self.signs(), by_shape], axis=2)

    def signs(self) -> Floats:
        """Returns the signs of the coefficients [k], +1 or -1."""
        return np.array([float(c.sign) for c in self.coefficients()])


class ImplicitLaw(LawConfig):
    """A law whose terms depend on the loss itself and fall as it rises, so that L = F(L) has one root."""

    def terms_at(self, shape_mq: Floats, features: Any, loss_mn: Floats) -> tuple[Floats, Floats, Floats]:
        """Returns phi [m, n, k] at these losses; its derivatives by the shapes [m, n, k, q] and the loss [m, n, k]."""
        raise AssertionError(f"{type(self).__name__} has no terms_at")

    def least_terms(self, shape_mq: Floats, features: Any) -> Floats:
        """Returns phi [m, n, k] at its least, for an infinite loss: the sum is at or below the root."""
        raise AssertionError(f"{type(self).__name__} has no least_terms")

    def terms_of_losses(self, shape_mq: Floats, features: Any, loss_n: Floats) -> Floats:
        """Returns phi at the losses that are known."""
        return self.terms_at(shape_mq, features, np.broadcast_to(loss_n, (shape_mq.shape[0], loss_n.size)))[0]

    def evaluate(self, theta_mp: Floats, features: Any) -> tuple[Floats, Floats]:
        """Returns the root and its derivatives, by the implicit function theorem.

        Newton's method begins at or below the root. F is convex and falls, so each step ends below the root too.
        """
        count = len(self.coefficients())
        signed_mk, shape_mq = theta_mp[:, :count] * self.signs(), theta_mp[:, count:]
        loss_mn = np.maximum(np.einsum("mnk,mk->mn", self.least_terms(shape_mq, features), signed_mk), SMALLEST_LOSS)
        for _ in range(_MOST_NEWTON_STEPS):
            phi_mnk, slope_mnkq, by_loss_mnk = self.terms_at(shape_mq, features, loss_mn)
            steepness_mn = 1 - np.einsum("mnk,mk->mn", by_loss_mnk, signed_mk)
            step_mn = (np.einsum("mnk,mk->mn", phi_mnk, signed_mk) - loss_mn) / steepness_mn
            if np.all(np.abs(step_mn) <= 1e-13 * loss_mn):
                break
            loss_mn = np.maximum(loss_mn + step_mn, SMALLEST_LOSS)
        by_shape = np.einsum("mnkq,mk->mnq", slope_mnkq, signed_mk)
        direct_mnp = np.concatenate([phi_mnk * self.signs(), by_shape], axis=2)
        return loss_mn, direct_mnp / steepness_mn[:, :, None]


class CurveLaw(LawConfig):
    """A law of the loss along a run: its features are those of a schedule up to each step."""

    law_error: ClassVar[float] = 0.0018  # relative: how far it misses runs outside its fit, beyond noise (docs/laws.md)
    error_by_horizon: ClassVar[float] = 2.25  # how that grows with log (step / longest fitted step)
    error_by_size: ClassVar[float] = 0.0  # the same with log (parameters / nearest fitted size)

    def features(self, points: Sequence[EvaluationPoints]) -> Any:
        """Returns what `terms` needs, for all evaluation points one after the other."""
        raise AssertionError(f"{type(self).__name__} has no features")

    def check(self, curves: Sequence[LossCurve]) -> None:
        """Raises UserError if the curves cannot identify the parameters."""
        check_annealed(curves)

    def notes(self, curves: Sequence[LossCurve]) -> tuple[str, ...]:
        """Returns what a user of the fit must know of what these curves cannot tell; usually nothing."""
        return ()

    def suited(self, curves: Sequence[EvaluationPoints]) -> Self:
        """Returns the law in the units of the curves to be fitted: a prior must not depend on the unit of the lr."""
        return self

    def predict(self, values: Mapping[str, float], points: EvaluationPoints) -> Floats:
        """Returns the loss at each point [k]."""
        loss_mn, _ = self.evaluate(self.pack(values)[None], self.features([points]))
        loss_k: Floats = loss_mn[0]
        return loss_k

    def end_loss(self, theta_p: Floats, schedule: LrCurve, parameters: float | None = None) -> tuple[float, Slope]:
        """Returns the loss after the last step, and a function that computes its slope by the lr of every step [n].

        A search needs many more losses than slopes. `parameters`: of the model, as in EvaluationPoints.
        """
        raise AssertionError(f"{type(self).__name__} has no end_loss")


LAWS = Registry("law", room="laws.loss_curves", base=CurveLaw)
DEFAULT_LAW = "relaxation"  # the best on the public curves (docs/laws.md)


def check_annealed(curves: Sequence[LossCurve]) -> None:
    """Raises UserError if no curve's lr changes after the warm-up: such curves say nothing of a lower lr."""
    if not curves:
        raise UserError("a fit needs at least one curve")
    for curve in curves:
        lr = curve.schedule.lr[curve.schedule.warmup_steps : int(curve.steps[-1])]
        if lr.size and lr.max() - lr.min() > 0.02 * curve.schedule.peak:
            return
    names = ", ".join(curve.name for curve in curves)
    raise UserError(
        f"{names}: the lr is constant after the warm-up in every curve, so no fit can tell how much a lower lr gains "
        "(the coefficient of annealing); add a run whose lr falls (cosine, WSD, a cooldown), or losses from its tail"
    )
