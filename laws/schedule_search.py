"""The schedule a law would choose: the best of the families, and the best non-increasing one of any form.

The peak lr and the warm-up are given (a law fitted at one peak knows no other); what falls after the warm-up is sought.
Free form (arXiv 2503.12811, section 5, by other means): the lr at knots that lie denser towards the end, straight lines
between, descended by SLSQP in the falls between knots, all at least 0, with the law's own gradient over every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.sparse import csr_array

from laws.curve import Floats, Ints, Schedule
from laws.fitting.fitted import Fit
from laws.schedules import FAMILIES, TAILS
from settings import UserError

FAMILY_NAMES = ("constant", "cosine", "infinite", "linear", "wsd")
KNOTS = 60
SCALE = 1e3  # of the objective: SLSQP's first steps suit slopes of about 1
INFINITE_LEAST_SHARE = 1e-3  # of the peak: an exponential anneal cannot reach 0


@dataclass(frozen=True)
class Constraints:
    """What a schedule must keep to."""

    peak_lr: float
    warmup_steps: int
    min_lr: float = 0.0
    families: tuple[str, ...] = FAMILY_NAMES
    free_form: bool = True
    max_decay_share: float = 1.0  # of WSD's tail in the run
    parameters: float | None = None  # of the model, for laws that span sizes


@dataclass(frozen=True, eq=False)
class Candidate:
    """A schedule, its predicted final loss, and what makes a run follow it: a `schedule` section (None: a table)."""

    name: str
    schedule: Schedule
    loss: float
    section: Mapping[str, Any] | None = None

    def config(self, table: Path | None = None) -> dict[str, Any]:
        """The config fragment: `optim.lr` and `schedule`; `table` is the file of a free-form schedule."""
        section = dict(self.section) if self.section is not None else {"name": "table", "file": str(table)}
        return {"optim": {"lr": self.schedule.peak}, "schedule": section}


def search(fit: Fit, *, steps: int, constraints: Constraints) -> list[Candidate]:
    """The best schedule of every family, and of free form, best first. Raises UserError for impossible constraints."""
    _check(steps, constraints)
    found = [FAMILY_SEARCHES[name](fit, steps, constraints) for name in constraints.families]
    if constraints.free_form:
        leading = sorted(found, key=lambda candidate: candidate.loss)[:2]
        found.append(free_form(fit, steps, constraints, starts=[candidate.schedule for candidate in leading]))
    return sorted(found, key=lambda candidate: candidate.loss)


def final_loss(fit: Fit, schedule: Schedule, parameters: float | None = None) -> float:
    """The loss after the last step."""
    return fit.law.end_slope(fit.theta_p, schedule, parameters)[0]


def free_form(fit: Fit, steps: int, constraints: Constraints, *, starts: Sequence[Schedule] = ()) -> Candidate:
    """The best non-increasing schedule after the warm-up; no worse than any of `starts` that is one."""
    form = FreeForm(steps, constraints)

    def objective(fall_k: Floats) -> tuple[float, Floats]:
        loss, slope_n = fit.law.end_slope(fit.theta_p, form.schedule(fall_k), constraints.parameters)
        return SCALE * loss, SCALE * form.slope(slope_n)

    candidates = [(final_loss(fit, start, constraints.parameters), start) for start in starts if form.allows(start)]
    for guess in (form.linear(), *(form.falls(start) for start in starts)):
        result = minimize(  # type: ignore[call-overload]  # jac=True: value and slope together
            objective,
            guess,
            jac=True,
            method="SLSQP",
            bounds=[(0.0, 1.0)] * guess.size,
            constraints=[{"type": "ineq", "fun": lambda x: 1 - x.sum(), "jac": lambda x: -np.ones_like(x)}],
            options={"maxiter": 150, "ftol": SCALE * 1e-9},
        )
        for fall_k in (guess, np.clip(result.x, 0, 1)):
            schedule = form.schedule(fall_k / max(float(fall_k.sum()), 1.0))
            candidates.append((final_loss(fit, schedule, constraints.parameters), schedule))
    loss, schedule = min(candidates, key=lambda candidate: candidate[0])
    return Candidate("free form", schedule, loss)


class FreeForm:
    """Schedules of one length that fall from the peak in straight lines between knots, denser towards the end.

    A schedule is the falls at the knots [k], in shares of the span from the peak to the least lr, at most 1 in all.
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
        constant = FAMILIES.parse({"name": "constant", "warmup_steps": constraints.warmup_steps})
        self._base_n = constant.build(peak_lr=constraints.peak_lr, total_steps=steps).lr
        self._weights = self._interpolation(np.arange(self._start, steps))

    def schedule(self, fall_k: Floats) -> Schedule:
        """The lr of every step."""
        lr_n = self._base_n.copy()
        lr_n[self._start :] -= self._span * (self._weights @ np.cumsum(fall_k))
        lr_n[self._start :] = np.maximum(lr_n[self._start :], self._constraints.min_lr)
        return Schedule(lr_n, self._constraints.warmup_steps)

    def slope(self, slope_n: Floats) -> Floats:
        """The slope of the loss by the falls [k] from that by the lr of every step [n]."""
        by_depth_k = -self._span * (self._weights.T @ slope_n[self._start :])
        # A fall lowers the lr at its own knot and all later ones. SLSQP misreads an array with a negative stride.
        by_fall_k: Floats = np.ascontiguousarray(np.cumsum(by_depth_k[::-1])[::-1])
        return by_fall_k

    def linear(self) -> Floats:
        """The falls of a straight line to the least lr."""
        shares: Floats = np.diff(self._knots) / (self._knots[-1] - self._knots[0])
        return shares

    def falls(self, schedule: Schedule) -> Floats:
        """The falls of a schedule between the knots; where it rises, none."""
        depth = (self._constraints.peak_lr - schedule.lr[self._knots]) / max(self._span, 1e-300)
        return np.clip(np.diff(depth), 0.0, 1.0)

    def allows(self, schedule: Schedule) -> bool:
        """Whether it never rises after the warm-up."""
        return bool(np.all(np.diff(schedule.lr[self._start - 1 :]) <= 0))

    def _interpolation(self, steps: Ints) -> csr_array:
        """[steps, k]: how much of each knot's depth each step has; the first knot has none."""
        upper = np.searchsorted(self._knots, steps)
        below, above = self._knots[upper - 1], self._knots[upper]
        share = (steps - below) / (above - below)
        rows = np.arange(steps.size)
        shape = (steps.size, self._knots.size - 1)
        later = upper > 1
        entries = np.concatenate([share, (1 - share)[later]])
        columns = np.concatenate([upper - 1, upper[later] - 2])
        return csr_array((entries, (np.concatenate([rows, rows[later]]), columns)), shape=shape)


def _constant(fit: Fit, steps: int, constraints: Constraints) -> Candidate:
    return _candidate(fit, steps, constraints, {"name": "constant"})


def _falling(name: str) -> FamilySearch:
    def best(fit: Fit, steps: int, constraints: Constraints) -> Candidate:
        return _candidate(fit, steps, constraints, {"name": name, "min_lr": constraints.min_lr})

    return best


def _wsd(fit: Fit, steps: int, constraints: Constraints) -> Candidate:
    """Every tail at its best length."""
    room = steps - max(constraints.warmup_steps, 1)
    most = max(1, min(room, round(constraints.max_decay_share * steps)))
    found = []
    for tail in TAILS:
        if tail == "exponential" and constraints.min_lr == 0:
            continue  # never gets there

        def of_length(decay_steps: int, tail: str = tail) -> Candidate:
            section = {"name": "wsd", "min_lr": constraints.min_lr, "decay_steps": decay_steps, "tail": tail}
            return _candidate(fit, steps, constraints, section)

        lengths = np.unique(np.round(np.geomspace(1, most, 16)).astype(int)).tolist()
        tried = {length: of_length(length) for length in lengths}
        best = min(tried, key=lambda length: tried[length].loss)
        place = lengths.index(best)
        low, high = lengths[max(place - 1, 0)], lengths[min(place + 1, len(lengths) - 1)]
        if high - low > 2:
            result = minimize_scalar(
                lambda x: of_length(round(x)).loss, bounds=(low, high), method="bounded", options={"maxiter": 15}
            )
            tried[round(float(result.x))] = of_length(round(float(result.x)))
        found.append(min(tried.values(), key=lambda candidate: candidate.loss))
    return min(found, key=lambda candidate: candidate.loss)


def _infinite(fit: Fit, steps: int, constraints: Constraints) -> Candidate:
    """A grid over the level of the constant phase and the two joints."""
    peak, least = constraints.peak_lr, max(constraints.min_lr, INFINITE_LEAST_SHARE * constraints.peak_lr)
    start = max(constraints.warmup_steps, 1)
    found = []
    for level in (0.3, 0.5, 0.7, 0.9):
        for cooldown in (0.1, 0.2, 0.4):
            for anneal in (0.1, 0.2, 0.4):
                section = {
                    "name": "infinite",
                    "min_lr": least,
                    "constant_lr": max(level * peak, least),
                    "cooldown_end_step": min(max(start, round(cooldown * steps)), steps),
                    "constant_end_step": max(start, round((1 - anneal) * steps), round(cooldown * steps)),
                }
                found.append(_candidate(fit, steps, constraints, section))
    return min(found, key=lambda candidate: candidate.loss)


FamilySearch = Callable[[Fit, int, Constraints], Candidate]
FAMILY_SEARCHES: dict[str, FamilySearch] = {
    "constant": _constant,
    "cosine": _falling("cosine"),
    "infinite": _infinite,
    "linear": _falling("linear"),
    "wsd": _wsd,
}


def _candidate(fit: Fit, steps: int, constraints: Constraints, section: dict[str, Any]) -> Candidate:
    section = {**section, "warmup_steps": constraints.warmup_steps}
    schedule = FAMILIES.parse(section).build(peak_lr=constraints.peak_lr, total_steps=steps)
    return Candidate(str(section["name"]), schedule, final_loss(fit, schedule, constraints.parameters), section)


def _check(steps: int, constraints: Constraints) -> None:
    if not constraints.peak_lr > 0:
        raise UserError(f"peak_lr = {constraints.peak_lr} must be above 0")
    if not 0 <= constraints.min_lr <= constraints.peak_lr:
        raise UserError(f"min_lr = {constraints.min_lr} must lie between 0 and peak_lr = {constraints.peak_lr}")
    if not 0 <= constraints.warmup_steps < steps:
        raise UserError(f"warmup_steps = {constraints.warmup_steps} must lie between 0 and steps - 1 = {steps - 1}")
    if not 0 < constraints.max_decay_share <= 1:
        raise UserError(f"max_decay_share = {constraints.max_decay_share} must be above 0 and at most 1")
    if not constraints.families and not constraints.free_form:
        raise UserError("nothing to search: name at least one family, or allow the free form")
    for name in constraints.families:
        if name not in FAMILY_SEARCHES:
            raise UserError(f'no family is called "{name}"; known are: {", ".join(FAMILY_SEARCHES)}')
