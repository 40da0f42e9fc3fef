"""The law over the horizon, for one size: what data allow, what the first steps cost, and what the lr still holds up.

    L(t) = E + B D^-beta + F S^-gamma + G D^-rho sum_{k<=t} (u_k^q - u_{k-1}^q) (1 - (1 + C T_k)^-1/2)

u is the lr over the peak of its run, S the sum of u^r over the steps, D that of the tokens, and T_k the sum of u^p from
step k on. The last term is the noise of `relaxation`, with D for its progress.

A law with one power promises long runs too much or too little: early losses fall faster than late ones, and bend the
power. Here the first steps have a term of their own, which falls faster and counts steps, since few of them are limited
by data; beta has a prior, the exponent of tokens of the published refit of Chinchilla (Epoch AI 2024). A lower lr is a
lower u only within a run: the law supposes that each run's peak lr was chosen well, and says nothing of the peak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from laws.curve import EvaluationPoints, Floats, LossCurve, LrCurve, geometric_mean
from laws.law import LAWS, Coefficient, CurveLaw, Shape, Slope, check_annealed
from laws.loss_curves.relaxation import FASTEST, SLOWEST, TYPICAL, RelaxationFeatures, scaled_lr
from settings import UserError

REFIT_BETA = 0.366  # of Chinchilla, Epoch AI 2024
_KERNEL_POWER = 0.5


class HeldUpFeatures:
    """The logarithms of tokens and steps of n points, weighted by the lr, and the noise of each point."""

    def __init__(self, law: HeldUpLaw, points: Sequence[EvaluationPoints]) -> None:
        steps = [np.cumsum(weighted(law, at.schedule))[at.steps - 1] for at in points]
        batches = [np.full(at.steps.size, law.step_worth(at.batch_tokens)) for at in points]
        self.log_steps_n: Floats = np.log(np.concatenate(steps) / law.reference_steps)
        self.log_tokens_n: Floats = self.log_steps_n + np.log(
            np.concatenate(batches) * law.reference_steps / law.reference_tokens
        )
        sizes = [np.full(at.steps.size, law.size_of(at)) for at in points]
        self.log_size_n: Floats = np.log(np.concatenate(sizes) / law.reference_parameters)
        self.relaxation = RelaxationFeatures(
            points,
            progress_power=law.progress_power,
            level_power=law.level_power,
            clock_power=law.clock_power,
            beta=_KERNEL_POWER,
            reference_lr=None,
        )


class HeldUpLaw(CurveLaw):
    """A law of what the lr still holds up, over a compute law.

    The class has the settings, the noise and the early term of the laws over the horizon and over size.
    """

    law_error: ClassVar[float] = 0.0005  # benchmarks/ladder_laws.md
    error_by_horizon: ClassVar[float] = 0.0
    costly: ClassVar[bool] = True  # a ladder has thousands of losses

    progress_power: float = Field(0.85, gt=0, le=2, description="r: how the worth of a step goes with the lr")
    level_power: float = Field(0.6, gt=0, le=2, description="q: how the level of the noise goes with the lr")
    clock_power: float = Field(0.35, ge=0, le=2, description="p: how the speed of relaxation goes with the lr")
    rho: float = Field(0.1, ge=0, le=1, description="how the noise sinks with tokens")
    early_power: float = Field(1.5, gt=0, le=4, description="gamma: how the cost of the first steps falls")
    early: bool = Field(True, description="whether the first steps have a term of their own")
    beta_prior_width: float = Field(0.05, gt=0, description="of the exponent of tokens")
    reference_steps: float = Field(1.0, gt=0, description="unit of S; a fit takes the middle of its runs")
    reference_tokens: float = Field(1.0, gt=0, description="unit of D; a fit takes the middle of its runs")
    reference_parameters: float = Field(1.0, gt=0, description="unit of N; a fit takes the middle of its runs")
    reference_batch_tokens: float = Field(1.0, gt=0, description="of runs whose batch is unknown")

    def suited(self, curves: Sequence[EvaluationPoints]) -> Self:
        """Returns the law in units of the middle of the runs."""
        known = [curve.batch_tokens for curve in curves if curve.batch_tokens is not None]
        batch = geometric_mean(known) if known else self.reference_batch_tokens
        law = self.model_copy(update={"reference_batch_tokens": batch})
        ends = [float(weighted(law, curve.schedule)[: int(curve.steps[-1])].sum()) for curve in curves]
        tokens = [end * law.step_worth(curve.batch_tokens) for end, curve in zip(ends, curves, strict=True)]
        sizes = [law.size_of(curve) for curve in curves]
        return law.model_copy(
            update={
                "reference_steps": geometric_mean(ends),
                "reference_tokens": geometric_mean(tokens),
                "reference_parameters": geometric_mean(sizes),
            }
        )

    def step_worth(self, batch_tokens: float | None) -> float:
        """Returns what a step adds to D: its tokens."""
        return self.reference_batch_tokens if batch_tokens is None else batch_tokens

    def size_of(self, at: EvaluationPoints) -> float:
        """Returns the parameters of a run's model, in a law that spans sizes; else 1."""
        return 1.0

    def progress_coefficients(self) -> tuple[Coefficient, ...]:
        """Returns the coefficients of the compute law; the first is the constant."""
        raise AssertionError(f"{type(self).__name__} has no progress_coefficients")

    def progress_shapes(self) -> tuple[Shape, ...]:
        """Returns the shapes of the compute law."""
        raise AssertionError(f"{type(self).__name__} has no progress_shapes")

    def progress(self, shape_mq: Floats, log_size_n: Floats, log_tokens_n: Floats) -> tuple[Floats, Floats, Floats]:
        """Returns the second term of the compute law [m, n], its slope by its shapes [m, n, q] and by log D [m, n]."""
        raise AssertionError(f"{type(self).__name__} has no progress")

    def coefficients(self) -> tuple[Coefficient, ...]:
        """Returns those of the compute law, the level of the noise, and the cost of the first steps."""
        early = (Coefficient("F", 1, "of the first steps"),) if self.early else ()
        return (*self.progress_coefficients(), Coefficient("G", -1, "of noise: its level at the peak lr"), *early)

    def shapes(self) -> tuple[Shape, ...]:
        """Returns those of the compute law, and the speed of the noise."""
        prior = (math.log(TYPICAL), 1.0)
        speed = Shape("C", SLOWEST, FASTEST, (5e-3, 2e-2, 1e-1), "speed of relaxation, a step", log=True, prior=prior)
        return (*self.progress_shapes(), speed)

    def features(self, points: Sequence[EvaluationPoints]) -> HeldUpFeatures:
        """Returns tokens, steps and noise of all points."""
        return HeldUpFeatures(self, points)

    def terms(self, shape_mq: Floats, features: HeldUpFeatures) -> tuple[Floats, Floats]:
        """Returns 1, the compute law's term, D^-rho times the sum over the lr drops, and S^-gamma."""
        own = len(self.progress_shapes())
        term, by_own, _ = self.progress(shape_mq[:, :own], features.log_size_n, features.log_tokens_n)
        phi = np.ones((*term.shape, len(self.coefficients())))
        slope = np.zeros((*phi.shape, own + 1))
        phi[:, :, 1], slope[:, :, 1, :own] = term, by_own
        sinking_n = np.exp(-self.rho * features.log_tokens_n)
        relaxed_mn, by_log_speed = features.relaxation.relaxed(shape_mq[:, own])
        phi[:, :, 2] = sinking_n * relaxed_mn
        slope[:, :, 2, own] = sinking_n * by_log_speed / shape_mq[:, own:]
        if self.early:
            phi[:, :, 3] = np.exp(-self.early_power * features.log_steps_n)
        return phi, slope

    def end_loss(self, theta_p: Floats, schedule: LrCurve, parameters: float | None = None) -> tuple[float, Slope]:
        """Returns the loss after the last step and its slope in O(n); the peak itself counts as fixed."""
        end = EvaluationPoints(schedule, np.array([schedule.steps]), parameters=parameters)
        count, own = len(self.coefficients()), len(self.progress_shapes())
        u_n, worth_n = scaled_lr(schedule, schedule.peak), weighted(self, schedule)
        steps = float(worth_n.sum())
        log_steps = math.log(steps / self.reference_steps)
        log_tokens = math.log(steps * self.step_worth(None) / self.reference_tokens)
        log_size = np.array([math.log(self.size_of(end) / self.reference_parameters)])
        term, _, by_log_tokens = self.progress(theta_p[None, count : count + own], log_size, np.array([log_tokens]))
        level_n, speed = u_n**self.level_power, float(theta_p[-1])
        x_n = speed * np.cumsum((u_n**self.clock_power)[::-1])[::-1]
        drop_n = -np.diff(level_n, prepend=0.0)
        kernel_n = 1 - (1 + x_n) ** -_KERNEL_POWER
        noise, relaxed = float(theta_p[2]) * math.exp(-self.rho * log_tokens), float(drop_n @ kernel_n)
        early = float(theta_p[3]) * math.exp(-self.early_power * log_steps) if self.early else 0.0

        def slope() -> Floats:
            by_x_n = _KERNEL_POWER * (1 + x_n) ** (-_KERNEL_POWER - 1)
            by_level_n = -kernel_n
            by_level_n[:-1] += kernel_n[1:]
            relaxed_by_u_n = by_level_n * self.level_power * level_n / u_n
            relaxed_by_u_n += np.cumsum(drop_n * by_x_n) * speed * self.clock_power * u_n ** (self.clock_power - 1)
            by_log_steps = float(theta_p[1]) * float(by_log_tokens[0, 0]) - self.early_power * early
            by_log_steps += self.rho * noise * relaxed
            by_u_n = by_log_steps * self.progress_power * worth_n / u_n / steps - noise * relaxed_by_u_n
            by_lr_n: Floats = by_u_n / schedule.peak
            return by_lr_n

        return float(theta_p[0]) + float(theta_p[1]) * float(term[0, 0]) + early - noise * relaxed, slope


def weighted(law: HeldUpLaw, schedule: LrCurve) -> Floats:
    """Returns u^r of every step [n]: what it is worth, as a share of a step at the peak lr."""
    worth_n: Floats = scaled_lr(schedule, schedule.peak) ** law.progress_power
    return worth_n


COUNTED = "parameters: counted"
COMPARED: Mapping[str, str] = {
    "loss": "the loss",
    "shards: tokenizer": "the tokenizer",
    "shards: held-out split": "the validation set",
    COUNTED: "how parameters are counted (with or without embeddings)",
}


def check_comparable(law: str, curves: Sequence[LossCurve]) -> None:
    """Raises UserError if the losses or the sizes of some curves are not of one kind."""
    for key, meaning in COMPARED.items():
        known = [(curve.name, curve.provenance[key]) for curve in curves if key in curve.provenance]
        for name, value in known[1:]:
            if value != known[0][1]:
                raise UserError(
                    f"the {law} law compares losses over runs, but {meaning} differs: {key} is {known[0][1]!r} in "
                    f"{known[0][0]} and {value!r} in {name}; fit runs that agree in it"
                )


def check_horizons(law: str, curves: Sequence[LossCurve], lengths: Sequence[float]) -> None:
    """Raises UserError if all runs have about one length: such runs say nothing of longer ones."""
    if max(lengths) < 1.5 * min(lengths):
        names = ", ".join(curve.name for curve in curves)
        raise UserError(
            f"the {law} law needs runs of at least two lengths, one 1.5 times as long as another; {names} go from "
            f"{min(lengths):.4g} to {max(lengths):.4g} steps: add a shorter or a longer run"
        )


@LAWS.register
class HorizonConfig(HeldUpLaw):
    """L = E + B D^-beta + F S^-gamma + noise, for runs of one size and different lengths."""

    name: Literal["horizon"] = "horizon"

    def check(self, curves: Sequence[LossCurve]) -> None:
        """Raises UserError for runs of one length, of several sizes, or whose losses are not comparable."""
        check_annealed(curves)
        check_comparable(self.name, curves)
        sizes = {curve.parameters for curve in curves if curve.parameters is not None}
        if len(sizes) > 1:
            raise UserError(
                f"the {self.name} law is of one model size; these curves have {len(sizes)}: fit one, or --law joint"
            )
        check_horizons(self.name, curves, [float(curve.steps[-1]) for curve in curves])

    def progress_coefficients(self) -> tuple[Coefficient, ...]:
        """Returns E, B."""
        return (Coefficient("E", 1, "the loss that is left"), Coefficient("B", 1, "of tokens"))

    def progress_shapes(self) -> tuple[Shape, ...]:
        """Returns beta."""
        prior = (REFIT_BETA, self.beta_prior_width)
        return (Shape("beta", 0.01, 2.0, (0.25, 0.366, 0.5), "of tokens", prior=prior),)

    def progress(self, shape_mq: Floats, log_size_n: Floats, log_tokens_n: Floats) -> tuple[Floats, Floats, Floats]:
        """Returns D^-beta and its slopes."""
        term = np.exp(-shape_mq[:, :1] * log_tokens_n)
        return term, (-term * log_tokens_n)[:, :, None], -shape_mq[:, :1] * term
