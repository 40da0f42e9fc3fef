"""The design of experiments: which runs of a ladder to add, so that the interval of a forecast becomes shortest.

A fit is known by its bootstrap samples: their covariance in log loss says how far it knows each run's last loss, and
how these hang together. A run that is added tells its own last loss up to noise and the error of the law, which narrows
the target by what the two share (Bayesian linear design; Chaloner and Verdinelli 1995). It also brings the target
closer to the fit, in steps and size, where the law's own error grows less. All subsets within the budget are compared.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from laws.curve import EvaluationPoints, Floats, LrCurve, last_step
from laws.fitting.bootstrap import LEVEL
from laws.fitting.fitted import Fit, FittedCurve, normal_quantile
from laws.fitting.law_error import law_error_growth
from laws.law import FLOPS_PER_PARAMETER_TOKEN, SMALLEST_LOSS
from schedules.base import SCHEDULES
from settings import UserError

_MOST_SUBSETS = 200_000
_MOST_STEPS = 10**7  # a schedule is an array with the lr of every step


@dataclass(frozen=True)
class CandidateRun:
    """A run that could be trained, with the schedule of the fitted ones."""

    parameters: float
    tokens: float
    batch_tokens: float
    end: EvaluationPoints = field(repr=False)

    @property
    def flops(self) -> float:
        """6 N D."""
        return FLOPS_PER_PARAMETER_TOKEN * self.parameters * self.tokens


@dataclass(frozen=True)
class Addition:
    """Some runs, their cost, and the half-width of the target's interval with them (relative, 90%)."""

    runs: tuple[CandidateRun, ...]
    half_width: float

    @property
    def flops(self) -> float:
        """The cost of all runs."""
        return sum(run.flops for run in self.runs)


def candidate_run(fit: Fit, *, parameters: float, tokens: float, batch_tokens: float | None = None) -> CandidateRun:
    """Returns a run with a cosine of the fitted runs' warm-up share and last lr.

    `batch_tokens`: None for the power of the size that goes through the fitted runs. Raises UserError for a number that
    is not above 0, for more than 10 million steps, and for a fit whose law does not span sizes.
    """
    for name, value in (("parameters", parameters), ("tokens", tokens), ("batch_tokens", batch_tokens)):
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"a run with {name} = {value:g} cannot be trained: it must be positive and finite")
    known = [
        (c.parameters, c.batch_tokens) for c in fit.curves if c.parameters is not None and c.batch_tokens is not None
    ]
    if not fit.law.spans_sizes or not known:
        raise UserError(
            f"a design compares runs of different sizes, and the fit is of the {fit.law.name} law; fit runs of several "
            "sizes with --law joint"
        )
    if batch_tokens is None:
        batch_tokens = _batch_of_size(known, parameters)
    if not (0 < batch_tokens < math.inf and tokens / batch_tokens <= _MOST_STEPS):
        raise UserError(
            f"a run of {tokens:g} tokens with {batch_tokens:g} tokens a step must have at most {_MOST_STEPS:,} steps; "
            "give fewer tokens, or more tokens a step"
        )
    steps = max(2, round(tokens / batch_tokens))
    warmup = float(np.median([curve.warmup_steps / curve.steps for curve in fit.curves]))
    least = float(np.median([curve.last_lr / curve.peak_lr for curve in fit.curves]))
    warmup_steps = min(round(warmup * steps), steps - 1)
    section = {"name": "cosine", "warmup_steps": warmup_steps, "min_lr": min(least, 1.0)}
    lr = SCHEDULES.parse(section).build(peak_lr=1.0, total_steps=steps).every_step()
    end = last_step(LrCurve(lr, warmup_steps), parameters=parameters, batch_tokens=batch_tokens)
    return CandidateRun(parameters, tokens, batch_tokens, end)


def half_width(fit: Fit, target: CandidateRun) -> float:
    """Returns the half-width of the target's interval by the fit alone (relative, 90%)."""
    return _Design(fit, target, ()).half_width(())


def best_additions(
    fit: Fit, target: CandidateRun, candidates: Sequence[CandidateRun], *, most: int = 2, budget_flops: float = math.inf
) -> list[Addition]:
    """Returns every subset of up to `most` candidates within the budget, the shortest interval first.

    Raises UserError if no candidate is within the budget, or there are too many subsets.
    """
    within = [run for run in candidates if run.flops <= budget_flops]
    if not within:
        cheapest = min((run.flops for run in candidates), default=math.nan)
        raise UserError(f"no candidate costs at most {budget_flops:.3g} FLOPs; the cheapest costs {cheapest:.3g}")
    if sum(math.comb(len(within), size) for size in range(1, most + 1)) > _MOST_SUBSETS:
        raise UserError(f"{len(within)} candidates have too many subsets of up to {most}; give fewer, or fewer at once")
    design = _Design(fit, target, within)
    subsets = itertools.chain.from_iterable(
        itertools.combinations(range(len(within)), size) for size in range(1, most + 1)
    )
    found = [
        Addition(tuple(within[i] for i in subset), design.half_width(subset))
        for subset in subsets
        if sum(within[i].flops for i in subset) <= budget_flops
    ]
    return sorted(found, key=lambda addition: (addition.half_width, addition.flops))


class _Design:
    """The covariance of the last losses of a target (first) and of candidates, and the errors of the law there."""

    def __init__(self, fit: Fit, target: CandidateRun, candidates: Sequence[CandidateRun]) -> None:
        if len(fit.samples) < 2:
            raise UserError("a design needs a fit with bootstrap samples: fit with --samples 200")
        self._fit, self._target, self._candidates = fit, target, candidates
        ends = [target.end, *(run.end for run in candidates)]
        loss_bk, _ = fit.law.evaluate(np.array(fit.samples), fit.law.features(ends))
        self._covariance = np.atleast_2d(np.cov(np.log(np.maximum(loss_bk, SMALLEST_LOSS)), rowvar=False))
        self._noise_k = np.array([fit.noise**2 + (fit.law_error * fit.error_growth(end)[-1]) ** 2 for end in ends])

    def half_width(self, subset: Sequence[int]) -> float:
        """Returns the half-width of the target's interval, with a subset of the candidates trained."""
        added = [index + 1 for index in subset]
        variance = float(self._covariance[0, 0])
        if added:
            shared = self._covariance[0, added]
            known = self._covariance[np.ix_(added, added)] + np.diag(self._noise_k[added])
            variance -= float(shared @ np.linalg.solve(known, shared))
        missed = self._fit.law_error * float(self._growth([self._candidates[index] for index in subset])[-1])
        return math.sqrt(max(variance, 0.0) + self._fit.noise**2 + missed**2) * normal_quantile(LEVEL)

    def _growth(self, added: Sequence[CandidateRun]) -> Floats:
        """Returns how the law's error grows to the target, with some runs added to the fit."""
        curves: Sequence[FittedCurve] = self._fit.curves
        return law_error_growth(
            self._target.end,
            fitted_steps=[*(curve.steps for curve in curves), *(run.end.schedule.steps for run in added)],
            fitted_shapes=(),
            fitted_sizes=[
                *(c.parameters for c in curves if c.parameters is not None),
                *(run.parameters for run in added),
            ],
            by_horizon=self._fit.law.error_by_horizon,
            by_size=self._fit.law.error_by_size,
        )


def _batch_of_size(known: Sequence[tuple[float, float]], parameters: float) -> float:
    """Returns the batch of a size by the power law through the batches of the fitted runs."""
    log_size, log_batch = np.log(np.array(known)).T
    if np.ptp(log_size) < 1e-9:
        return float(np.exp(log_batch.mean()))
    power, offset = np.polyfit(log_size, log_batch, 1)
    return float(np.exp(offset + power * math.log(parameters)))
