"""One fit for all laws: Huber on the log of the loss, many starts at once, analytic gradients, bounds.

For every shape on a grid the coefficients are solved for (variable projection, weighted least squares); the best of
these are refined together by a batched Levenberg-Marquardt on the exact objective

    sum_n Huber_delta(log L_n - log L^_n) + prior,   delta = 1e-3 (as in arXiv 2408.11029)

Legend of shapes: m parameter sets at once, n points, k coefficients, q shapes, p = k + q parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laws.curve import Floats, Ints
from laws.law import SMALLEST_LOSS, LawConfig

HUBER_DELTA = 1e-3
PRIOR_STRENGTH = 1e-5  # of a squared standard width, in the objective's unit
STARTS_REFINED = 5
STARTS_FINISHED = 2
_MOST_ROUNDS = 1000  # most laws take some tens; one of nine shapes crosses long flat valleys
_MOST_NUMBERS = 2**20  # of a term of the grid at once


@dataclass(frozen=True)
class Solution:
    """The best parameters [p], and the objective there."""

    theta_p: Floats
    objective: float


def fit_points(
    law: LawConfig, features: Any, loss_n: Floats, *, starts_mp: Floats | None = None, priors: bool = True
) -> Solution:
    """Returns the best fit over all starts (the grid's, or those given)."""
    problem = Problem(law, features, np.log(loss_n), priors=priors)
    starts = problem.starts(loss_n) if starts_mp is None else starts_mp
    theta_mp, objective_m = problem.refine(starts, most_rounds=10)
    leading = np.argsort(objective_m, kind="stable")[:STARTS_FINISHED]
    theta_mp, objective_m = problem.refine(theta_mp[leading])
    best = int(np.argmin(objective_m))
    return Solution(theta_mp[best], float(objective_m[best]))


class Problem:
    """The objective of one law on one set of losses; `weights_mn` weighs the losses for each parameter set."""

    def __init__(
        self,
        law: LawConfig,
        features: Any,
        log_loss_n: Floats,
        *,
        weights_mn: Floats | None = None,
        priors: bool = True,
    ) -> None:
        self.law = law
        self.features = features
        self.log_loss_n = log_loss_n
        self.weights_mn = np.ones((1, log_loss_n.size)) if weights_mn is None else weights_mn
        shapes = law.shapes()
        count = len(law.coefficients())
        self._count = count
        self._log_p = np.array([False] * count + [shape.log for shape in shapes])
        self._lower_p = np.array([0.0] * count + [np.log(s.lower) if s.log else s.lower for s in shapes])
        self._upper_p = np.array([np.inf] * count + [np.log(s.upper) if s.log else s.upper for s in shapes])
        centre, weight = np.zeros(count + len(shapes)), np.zeros(count + len(shapes))
        for index, shape in enumerate(shapes):
            if shape.prior is not None and priors:
                centre[count + index] = shape.prior[0]
                weight[count + index] = 2 * PRIOR_STRENGTH / shape.prior[1] ** 2
        self._centre_p, self._weight_p = centre, weight

    def redraw_priors(self, rng: np.random.Generator, count: int) -> None:
        """Gives each of `count` parameter sets its own priors, with centres drawn from the priors."""
        width_p = np.array([0.0] * self._count + [s.prior[1] if s.prior else 0.0 for s in self.law.shapes()])
        self._centre_p = self._centre_p + rng.normal(size=(count, width_p.size)) * width_p

    def starts(self, loss_n: Floats) -> Floats:
        """Returns the best few of the grid of shapes, each with its best coefficients [m, p]."""
        grids = [shape.grid for shape in self.law.shapes()]
        shape_mq = np.stack([axis.ravel() for axis in np.meshgrid(*grids, indexing="ij")], axis=1)
        size = max(1, _MOST_NUMBERS // (loss_n.size * self._lower_p.size))
        parts = [self._start(part_mq, loss_n) for part_mq in np.split(shape_mq, range(size, len(shape_mq), size))]
        theta_mp, objective_m = (np.concatenate(column) for column in zip(*parts, strict=True))
        return theta_mp[np.argsort(objective_m, kind="stable")[:STARTS_REFINED]]

    def _start(self, shape_mq: Floats, loss_n: Floats) -> tuple[Floats, Floats]:
        """Returns the shapes with their best coefficients [m, p], and the objective without priors [m]."""
        phi_mnk = self.law.terms_of_losses(shape_mq, self.features, loss_n) * self.law.signs()
        coefficient_mk = solve_coefficients(phi_mnk, loss_n)
        loss_mn = np.einsum("mnk,mk->mn", phi_mnk, coefficient_mk)
        residual_mn = np.log(np.maximum(loss_mn, SMALLEST_LOSS)) - np.log(loss_n)
        return np.concatenate([coefficient_mk, shape_mq], axis=1), huber(residual_mn).sum(axis=1)

    def refine(self, theta_mp: Floats, *, most_rounds: int = _MOST_ROUNDS) -> tuple[Floats, Floats]:
        """Descends from every start until it no longer moves; returns (parameters [m, p], objective [m]).

        Converged starts leave the rounds when they are the half, so that a slow one costs little more than its own.
        """
        found_mp = np.clip(self._to_search(theta_mp), self._lower_p, self._upper_p)
        found_m = np.empty(found_mp.shape[0])
        rest_m = np.arange(found_m.size)
        state = _Descent.begin(found_mp, *self._expand(found_mp, rest_m))
        for _ in range(most_rounds):
            tried_mp = np.clip(state.search_mp + self._step(state), self._lower_p, self._upper_p)
            state.take(tried_mp, *self._expand(tried_mp, rest_m))
            done_m = state.done_m()
            if done_m.all():
                break
            # At least two go on together: a law may interpolate between several sets where it is exact for one.
            if 2 * done_m.sum() >= done_m.size and (~done_m).sum() >= 2:
                found_mp[rest_m[done_m]], found_m[rest_m[done_m]] = state.search_mp[done_m], state.value_m[done_m]
                rest_m, state = rest_m[~done_m], state.only(~done_m)
        found_mp[rest_m], found_m[rest_m] = state.search_mp, state.value_m
        return self._from_search(found_mp), found_m

    def leverage(self, theta_p: Floats) -> Floats:
        """Returns how much of the noise of each loss the fit follows at a minimum [n].

        That is its leverage, times the share of losses within delta: where Huber's function is linear, a loss pulls as
        much wherever the fit goes.
        """
        loss_mn, slope_mnp = self.law.evaluate(theta_p[None], self.features)
        loss_n = np.maximum(loss_mn[0], SMALLEST_LOSS)
        slope_np = slope_mnp[0] / loss_n[:, None] * np.where(self._log_p, theta_p, 1.0)
        inside = max(float(np.mean(np.abs(np.log(loss_n) - self.log_loss_n) <= HUBER_DELTA)), 1 / loss_n.size)
        curvature_pp = inside * slope_np.T @ slope_np + np.diag(self._weight_p)
        unit_p = 1 / np.sqrt(np.maximum(np.diag(curvature_pp), 1e-200))
        scaled = curvature_pp * unit_p[:, None] * unit_p + 1e-12 * np.eye(unit_p.size)
        slope_np = slope_np * unit_p
        leverage_n: Floats = inside**2 * np.einsum("np,pn->n", slope_np, np.linalg.solve(scaled, slope_np.T))
        return leverage_n

    def _expand(self, search_mp: Floats, row_m: Ints) -> tuple[Floats, Floats, Floats]:
        """Returns the objective [m], its gradient [m, p] and a positive model of its curvature [m, p, p].

        `row_m`: which of the problem's weights and priors belong to each parameter set.
        """
        weights_mn, centre_mp = _rows(self.weights_mn, row_m), _rows(self._centre_p, row_m)
        theta_mp = self._from_search(search_mp)
        loss_mn, slope_mnp = self.law.evaluate(theta_mp, self.features)
        inside_mn = loss_mn > SMALLEST_LOSS
        held_mn = np.where(inside_mn, loss_mn, SMALLEST_LOSS)
        residual_mn = np.log(held_mn) - self.log_loss_n
        scale_mp = np.where(self._log_p, theta_mp, 1.0)
        slope_mnp = slope_mnp * (inside_mn / held_mn)[:, :, None] * scale_mp[:, None, :]
        size_mn = np.abs(residual_mn)
        pull_mn = np.clip(residual_mn, -HUBER_DELTA, HUBER_DELTA) * weights_mn
        # Huber's own curvature is 0 outside delta; a part of the majorising weight keeps the model definite there.
        weight_mn = np.where(size_mn <= HUBER_DELTA, 1.0, 0.1 * HUBER_DELTA / np.maximum(size_mn, HUBER_DELTA))
        weight_mn = weight_mn * weights_mn
        off_mp = search_mp - centre_mp
        value_m = (huber(residual_mn) * weights_mn).sum(axis=1) + 0.5 * (self._weight_p * off_mp**2).sum(axis=1)
        gradient_mp = np.einsum("mnp,mn->mp", slope_mnp, pull_mn) + self._weight_p * off_mp
        curvature_mpp = np.matmul((slope_mnp * weight_mn[:, :, None]).swapaxes(1, 2), slope_mnp)
        curvature_mpp += np.diag(self._weight_p)
        return np.where(np.isfinite(value_m), value_m, np.inf), gradient_mp, curvature_mpp

    def _step(self, state: _Descent) -> Floats:
        """Returns the damped Newton step [m, p] of the parameters that are free: not held by a bound."""
        search_mp, gradient_mp, curvature_mpp = state.search_mp, state.gradient_mp, state.curvature_mpp
        held = ((search_mp <= self._lower_p) & (gradient_mp > 0)) | ((search_mp >= self._upper_p) & (gradient_mp < 0))
        diagonal_mp = np.einsum("mpp->mp", curvature_mpp)
        # In units where the diagonal is 1: solved whatever the parameters' scales.
        unit_mp = np.where(held, 0.0, 1 / np.sqrt(np.maximum(diagonal_mp, 1e-200)))
        scaled = curvature_mpp * unit_mp[:, :, None] * unit_mp[:, None, :]
        identity = np.eye(search_mp.shape[1])
        system = scaled + identity * np.where(held, 1.0, state.damping_m[:, None] + 1e-14)[:, None, :]
        step_mp = np.linalg.solve(system, (gradient_mp * unit_mp)[:, :, None])[:, :, 0]
        return np.asarray(-step_mp * unit_mp, dtype=np.float64)

    def _to_search(self, theta_mp: Floats) -> Floats:
        return np.where(self._log_p, np.log(np.where(self._log_p, theta_mp, 1.0)), theta_mp)

    def _from_search(self, search_mp: Floats) -> Floats:
        return np.where(self._log_p, np.exp(np.where(self._log_p, search_mp, 0.0)), search_mp)


@dataclass
class _Descent:
    """The parameter sets that are still on their way, with the objective there, its slopes and the damping of each."""

    search_mp: Floats
    value_m: Floats
    gradient_mp: Floats
    curvature_mpp: Floats
    damping_m: Floats
    quiet_m: Ints  # rounds in a row in which the objective hardly changed

    @classmethod
    def begin(cls, search_mp: Floats, value_m: Floats, gradient_mp: Floats, curvature_mpp: Floats) -> _Descent:
        """Returns the state before the first step."""
        size = value_m.size
        return cls(search_mp, value_m, gradient_mp, curvature_mpp, np.full(size, 1e-3), np.zeros(size, dtype=np.int64))

    def take(self, search_mp: Floats, value_m: Floats, gradient_mp: Floats, curvature_mpp: Floats) -> None:
        """Moves each parameter set to the point that was tried if it is better there, and adapts the damping."""
        better = value_m < self.value_m
        # A step that overshot is tried again, shorter: it is no sign of convergence.
        still = np.abs(self.value_m - value_m) < 1e-9 * np.abs(self.value_m)
        self.quiet_m = np.where(still, self.quiet_m + 1, np.where(better, 0, self.quiet_m))
        self.search_mp = np.where(better[:, None], search_mp, self.search_mp)
        self.value_m = np.where(better, value_m, self.value_m)
        self.gradient_mp = np.where(better[:, None], gradient_mp, self.gradient_mp)
        self.curvature_mpp = np.where(better[:, None, None], curvature_mpp, self.curvature_mpp)
        self.damping_m = np.clip(np.where(better, self.damping_m / 4, self.damping_m * 5), 1e-12, 1e8)

    def done_m(self) -> NDArray[np.bool_]:
        """Returns which parameter sets have converged: five quiet rounds, or no step that helps."""
        done: NDArray[np.bool_] = (self.quiet_m >= 5) | (self.damping_m >= 1e8)
        return done

    def only(self, keep_m: NDArray[np.bool_]) -> _Descent:
        """Returns the state of some of the parameter sets."""
        return _Descent(**{name: value[keep_m] for name, value in vars(self).items()})


def _rows(values: Floats, row_m: Ints) -> Floats:
    """Returns the rows of an array that has one for each parameter set, or the array if one row serves all."""
    return values[row_m] if values.ndim == 2 and values.shape[0] > 1 else values


def huber(residual: Floats) -> Floats:
    """Returns Huber's function with delta = 1e-3: half the square within, linear beyond."""
    size = np.abs(residual)
    return np.where(size <= HUBER_DELTA, 0.5 * size**2, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))


def solve_coefficients(columns_mnk: Floats, loss_n: Floats) -> Floats:
    """Returns relative least squares without negative coefficients [m, k]: those are dropped, the lowest first."""
    weighted = columns_mnk / loss_n[:, None]
    norm_mk = np.sqrt(np.einsum("mnk,mnk->mk", weighted, weighted))
    norm_mk = np.where(norm_mk > 0, norm_mk, 1.0)
    weighted = weighted / norm_mk[:, None, :]
    gram = np.matmul(weighted.swapaxes(1, 2), weighted)
    target = weighted.sum(axis=1)
    count = gram.shape[1]
    free_mk = np.ones(norm_mk.shape, dtype=bool)
    solution = np.zeros_like(norm_mk)
    for _ in range(count):
        both = free_mk[:, :, None] & free_mk[:, None, :]
        system = np.where(both, gram, 0.0) + np.eye(count) * np.where(free_mk, 1e-10, 1.0)[:, None, :]
        solution = np.linalg.solve(system, np.where(free_mk, target, 0.0)[:, :, None])[:, :, 0]
        lowest = np.argmin(solution, axis=1)
        negative = solution[np.arange(lowest.size), lowest] < 0
        if not negative.any():
            break
        free_mk[negative, lowest[negative]] = False
    coefficients: Floats = np.maximum(solution, 0.0) / norm_mk
    return coefficients
