"""The best schedule of any form that never rises after the warm-up (arXiv 2503.12811, section 5, by other means).

A schedule is the lr at knots that lie denser towards the end, with straight lines between. SLSQP descends in the lr
drops between knots, all at least 0, with the law's own gradient over every step.

Legend of shapes: n steps, k intervals between knots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array

from laws.curve import Floats, Ints, LrCurve
from laws.fitting.fitted import Fit
from laws.schedule_search.candidate import Candidate, Constraints, final_loss
from schedules.constant import ConstantConfig
from settings import UserError

KNOTS = 60
SCALE = 1e3  # of the objective: SLSQP's first steps suit slopes of about 1


def free_form(fit: Fit, steps: int, constraints: Constraints, *, starts: Sequence[LrCurve] = ()) -> Candidate:
    """Returns the best schedule that never rises after the warm-up; no worse than any of `starts` that is one."""
    form, theta_p = FreeForm(steps, constraints), fit.theta_p

    def objective(drop_k: Floats) -> tuple[float, Floats]:
        loss, slope = fit.law.end_loss(theta_p, form.schedule(drop_k), constraints.parameters)
        return SCALE * loss, SCALE * form.slope(slope())

    candidates = [(final_loss(fit, start, constraints.parameters), start) for start in starts if form.allows(start)]
    for guess in (form.linear(), *(form.drops(start) for start in starts)):
        result = minimize(  # type: ignore[call-overload]  # jac=True: value and slope together
            objective,
            guess,
            jac=True,
            method="SLSQP",
            bounds=[(0.0, 1.0)] * guess.size,
            constraints=[{"type": "ineq", "fun": lambda x: 1 - x.sum(), "jac": lambda x: -np.ones_like(x)}],
            options={"maxiter": 150, "ftol": SCALE * 1e-9},
        )
        for drop_k in (guess, np.clip(result.x, 0, 1)):
            schedule = form.schedule(drop_k / max(float(drop_k.sum()), 1.0))
            candidates.append((final_loss(fit, schedule, constraints.parameters), schedule))
    loss, schedule = min(candidates, key=lambda candidate: candidate[0])
    return Candidate("free form", schedule, loss)


class FreeForm:
    """Schedules of one length that go down from the peak in straight lines between knots, denser towards the end.

    A schedule is given by its lr drops between knots [k], in shares of the span from the peak to the lowest lr, at most
    1 in all.
    """

    def __init__(self, steps: int, constraints: Constraints) -> None:
        self._constraints = constraints
        self._start = max(constraints.warmup_steps, 1)  # the first 0-based step that may be below the peak
        if steps <= self._start:
            raise UserError(f"steps = {steps} must be more than warmup_steps = {constraints.warmup_steps}")
        length = steps - self._start
        before_end = np.round(length * (np.arange(KNOTS, -1, -1) / KNOTS) ** 2)
        self._knots = np.unique(steps - 1 - before_end).astype(np.int64)  # the first is the last step of the peak
        self._span = constraints.peak_lr - constraints.min_lr
        constant = ConstantConfig(warmup_steps=constraints.warmup_steps)
        self._base_n = constant.build(peak_lr=constraints.peak_lr, total_steps=steps).every_step()
        self._weights = self._interpolation(np.arange(self._start, steps))

    def schedule(self, drop_k: Floats) -> LrCurve:
        """Returns the lr of every step for the lr drops [k]."""
        lr_n = self._base_n.copy()
        lr_n[self._start :] -= self._span * (self._weights @ np.cumsum(drop_k))
        lr_n[self._start :] = np.maximum(lr_n[self._start :], self._constraints.min_lr)
        return LrCurve(lr_n, self._constraints.warmup_steps)

    def slope(self, slope_n: Floats) -> Floats:
        """Returns the slope of the loss by the lr drops [k] from that by the lr of every step [n]."""
        by_depth_k = -self._span * (self._weights.T @ slope_n[self._start :])
        # A drop lowers the lr at its own knot and all later ones. SLSQP misreads an array with a negative stride.
        by_drop_k: Floats = np.ascontiguousarray(np.cumsum(by_depth_k[::-1])[::-1])
        return by_drop_k

    def linear(self) -> Floats:
        """Returns the lr drops of a straight line to the lowest lr."""
        shares: Floats = np.diff(self._knots) / (self._knots[-1] - self._knots[0])
        return shares

    def drops(self, schedule: LrCurve) -> Floats:
        """Returns the lr drops of a schedule between the knots; 0 where it rises."""
        depth = (self._constraints.peak_lr - schedule.lr[self._knots]) / max(self._span, 1e-300)
        return np.clip(np.diff(depth), 0.0, 1.0)

    def allows(self, schedule: LrCurve) -> bool:
        """Returns whether a schedule never rises after the warm-up."""
        return bool(np.all(np.diff(schedule.lr[self._start - 1 :]) <= 0))

    def _interpolation(self, steps: Ints) -> csr_array:
        """Returns how much of each knot's depth each step has [steps, k]; the first knot has none."""
        upper = np.searchsorted(self._knots, steps)
        below, above = self._knots[upper - 1], self._knots[upper]
        share = (steps - below) / (above - below)
        rows = np.arange(steps.size)
        shape = (steps.size, self._knots.size - 1)
        later = upper > 1
        entries = np.concatenate([share, (1 - share)[later]])
        columns = np.concatenate([upper - 1, upper[later] - 2])
        return csr_array((entries, (np.concatenate([rows, rows[later]]), columns)), shape=shape)
