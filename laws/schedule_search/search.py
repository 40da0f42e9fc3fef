"""The schedule that a law would choose: the best of every registered schedule, and the best of free form.

The peak lr and the warm-up are given (a law fitted at one peak knows no other); the search is over what follows the
warm-up. Each schedule's config says which settings to try (`search_space`), so that a new schedule is searched too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scipy.optimize import minimize_scalar

from laws.curve import LrCurve
from laws.fitting.fitted import Fit
from laws.schedule_search.candidate import Candidate, Constraints, final_loss
from laws.schedule_search.free_form import free_form
from schedules.base import SCHEDULES
from schedules.search_space import Trial
from settings import UserError

Price = Callable[[Mapping[str, Any]], Candidate]
"""settings of a schedule, without its name -> the candidate"""


def search(fit: Fit, *, steps: int, constraints: Constraints) -> list[Candidate]:
    """Returns the best of each registered schedule and the best free form, the lowest loss first.

    A schedule that cannot keep the constraints is left out. Raises UserError for impossible constraints, and for a
    schedule named in `families` that cannot keep them.
    """
    _check(steps, constraints)
    limits = constraints.limits(steps)
    spaces = {name: SCHEDULES[name].search_space(limits) for name in _searched(constraints)}
    found = [_best_registered(name, trials, fit, steps, constraints) for name, trials in spaces.items() if trials]
    found = [candidate for candidate in found if candidate.loss != math.inf]
    if left_out := set(constraints.families or ()) - {candidate.name for candidate in found}:
        raise UserError(
            f"schedule {min(left_out)} cannot keep between min_lr = {constraints.min_lr} and "
            f"peak_lr = {constraints.peak_lr}; leave it out of families, or lower min_lr"
        )
    if constraints.free_form:
        leading = sorted(found, key=lambda candidate: candidate.loss)[:2]
        found.append(free_form(fit, steps, constraints, starts=[candidate.schedule for candidate in leading]))
    return sorted(found, key=lambda candidate: candidate.loss)


def _best_registered(name: str, trials: Sequence[Trial], fit: Fit, steps: int, constraints: Constraints) -> Candidate:
    """Returns the best of a registered schedule's trials."""

    def price(settings: Mapping[str, Any]) -> Candidate:
        section = {"name": name, **settings}
        lr_n = SCHEDULES.parse(section).build(peak_lr=constraints.peak_lr, total_steps=steps).every_step()
        schedule = LrCurve(lr_n, constraints.warmup_steps)
        within = constraints.allow(schedule)
        loss = final_loss(fit, schedule, constraints.parameters) if within else math.inf
        return Candidate(name, schedule, loss, section)

    return min((_best_of(trial, price) for trial in trials), key=lambda candidate: candidate.loss)


def _best_of(trial: Trial, price: Price) -> Candidate:
    """Returns the best candidate of a trial: over its grid, then between the neighbours of the grid's best."""
    if trial.varied is None:
        return price(trial.settings)

    @functools.cache
    def at(value: int) -> Candidate:
        return price({**trial.settings, str(trial.varied): value})

    tried = [at(value) for value in trial.grid]
    best = min(range(len(tried)), key=lambda index: tried[index].loss)
    low, high = trial.grid[max(best - 1, 0)], trial.grid[min(best + 1, len(tried) - 1)]
    if high - low > 2:
        result = minimize_scalar(
            lambda x: at(round(x)).loss, bounds=(low, high), method="bounded", options={"maxiter": 15}
        )
        tried.append(at(round(float(result.x))))
    return min(tried, key=lambda candidate: candidate.loss)


def _check(steps: int, constraints: Constraints) -> None:
    if not constraints.peak_lr > 0:
        raise UserError(f"peak_lr = {constraints.peak_lr} must be above 0")
    if not 0 <= constraints.min_lr <= constraints.peak_lr:
        raise UserError(f"min_lr = {constraints.min_lr} must lie between 0 and peak_lr = {constraints.peak_lr}")
    if not 0 <= constraints.warmup_steps < steps:
        raise UserError(f"warmup_steps = {constraints.warmup_steps} must lie between 0 and steps - 1 = {steps - 1}")
    if not 0 < constraints.max_decay_share <= 1:
        raise UserError(f"max_decay_share = {constraints.max_decay_share} must be above 0 and at most 1")
    if not _searched(constraints) and not constraints.free_form:
        raise UserError("nothing to search: name at least one family, or allow the free form")
    for name in constraints.families or ():
        if not SCHEDULES[name].search_space(constraints.limits(steps)):
            raise UserError(
                f"schedule {name} cannot be searched: nothing in it can be varied; leave it out of families"
            )


def _searched(constraints: Constraints) -> tuple[str, ...]:
    return SCHEDULES.names() if constraints.families is None else constraints.families
