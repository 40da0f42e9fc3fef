"""The lr curve of a run, and its loss curve.

Step counts: `lr[i]` is the lr of the 0-based step i, so a loss at `steps = s` was measured after lr[:s] was applied.
Legend of shapes: n steps of the schedule, k losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.base import ScheduleConfig
from settings import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LrCurve:
    """The lr of every step; the first `warmup_steps` of them are the warm-up."""

    lr: Floats  # [n]
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        lr = np.asarray(self.lr, dtype=np.float64)
        if lr.ndim != 1 or lr.size == 0:
            raise UserError(f"a schedule must be a list of numbers, one lr a step; its shape is {lr.shape}")
        bad = np.nonzero(~(np.isfinite(lr) & (lr >= 0)))[0]
        if bad.size:
            raise UserError(f"lr {lr[bad[0]]} of step {bad[0]} must be finite and at least 0")
        if not 0 <= self.warmup_steps <= lr.size:
            raise UserError(f"warmup_steps = {self.warmup_steps} must lie between 0 and the {lr.size} steps")
        if lr.max() == 0:
            raise UserError("a schedule whose lr is 0 at every step trains nothing: give it a positive lr")
        object.__setattr__(self, "lr", lr)

    @property
    def steps(self) -> int:
        """The number of steps."""
        return int(self.lr.size)

    @property
    def peak(self) -> float:
        """The largest lr."""
        return float(self.lr.max())


@dataclass(frozen=True, eq=False)
class EvaluationPoints:
    """Points on a schedule at which losses are wanted or were measured: after `steps` steps each."""

    schedule: LrCurve
    steps: Ints  # [k], ascending, each within 1..n
    parameters: float | None = field(default=None, kw_only=True)  # of the model, for laws that span sizes
    batch_tokens: float | None = field(default=None, kw_only=True)  # of a step, for the same

    def __post_init__(self) -> None:
        steps = np.asarray(self.steps, dtype=np.int64)
        if steps.ndim != 1 or steps.size == 0:
            raise UserError("at least one step is needed to predict a loss")
        if steps[0] < 1 or steps[-1] > self.schedule.steps or np.any(np.diff(steps) <= 0):
            raise UserError(
                f"steps must ascend within 1..{self.schedule.steps} (the schedule's length); "
                f"they go from {steps[0]} to {steps[-1]}"
            )
        for name in ("parameters", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise UserError(f"{name} = {value:g} must be positive and finite")
        object.__setattr__(self, "steps", steps)


@dataclass(frozen=True, eq=False)
class LossCurve(EvaluationPoints):
    """The losses of one run."""

    loss: Floats = field(kw_only=True)  # [k]
    name: str = "curve"
    provenance: Mapping[str, Any] = field(default_factory=dict, kw_only=True)  # keys of the run's config, where known
    digest: str = field(default="", kw_only=True)  # the hash of the run's config, where known

    def __post_init__(self) -> None:
        super().__post_init__()
        loss = np.asarray(self.loss, dtype=np.float64)
        if loss.shape != self.steps.shape:
            raise UserError(f"{self.name}: {loss.size} losses for {self.steps.size} steps")
        bad = np.nonzero(~(np.isfinite(loss) & (loss > 0)))[0]
        if bad.size:
            raise UserError(
                f"{self.name}: the loss {loss[bad[0]]} at step {self.steps[bad[0]]} must be positive and finite; "
                "leave such rows out"
            )
        object.__setattr__(self, "loss", loss)

    def between(self, first_step: int, last_step: int | None = None) -> LossCurve:
        """Returns the losses with first_step <= step <= last_step. Raises UserError if there are none."""
        last = self.schedule.steps if last_step is None else last_step
        keep = (self.steps >= first_step) & (self.steps <= last)
        if not keep.any():
            raise UserError(
                f"{self.name}: no loss lies in steps {first_step}..{last} (they go from {self.steps[0]} to "
                f"{self.steps[-1]}); the warm-up is left out of a fit"
            )
        return replace(self, steps=self.steps[keep], loss=self.loss[keep])

    def after_warmup(self) -> LossCurve:
        """Returns the curve without the losses of the warm-up, where no law holds."""
        return self.between(max(self.schedule.warmup_steps, 1))

    def thinned(self, most: int) -> LossCurve:
        """Returns at most `most` of the losses, evenly spaced, the last among them."""
        if self.steps.size <= most:
            return self
        keep = np.unique(np.linspace(0, self.steps.size - 1, most).round().astype(np.int64))
        return replace(self, steps=self.steps[keep], loss=self.loss[keep])


def every_step(
    schedule: LrCurve, *, most: int = 2000, parameters: float | None = None, batch_tokens: float | None = None
) -> EvaluationPoints:
    """Returns about `most` evenly spaced steps after the warm-up, the last among them: what a plot needs."""
    first = min(max(schedule.warmup_steps, 1), schedule.steps)
    count = min(most, schedule.steps - first + 1)
    steps = np.unique(np.linspace(first, schedule.steps, count).round().astype(np.int64))
    return EvaluationPoints(schedule, steps, parameters=parameters, batch_tokens=batch_tokens)


def last_step(
    schedule: LrCurve, *, parameters: float | None = None, batch_tokens: float | None = None
) -> EvaluationPoints:
    """Returns the end of the schedule."""
    return EvaluationPoints(schedule, np.array([schedule.steps]), parameters=parameters, batch_tokens=batch_tokens)


def planned_lr_curve(config: ScheduleConfig, *, peak_lr: float, total_steps: int) -> LrCurve:
    """Returns the lr of every step of a run to come. Raises UserError if the schedule's settings do not fit the run."""
    lr_n = config.build(peak_lr=peak_lr, total_steps=total_steps).every_step()
    warmup_steps = config.stated_warmup()
    return LrCurve(lr_n, detect_warmup(lr_n) if warmup_steps is None else warmup_steps)


def geometric_mean(values: Sequence[float] | Floats) -> float:
    """Returns the geometric mean: the middle of quantities that differ by factors."""
    return float(np.exp(np.mean(np.log(values))))


def detect_warmup(lr: Sequence[float] | Floats) -> int:
    """Returns how many steps at the start rise strictly: the warm-up (0 if the lr starts at its first peak)."""
    rises = np.diff(np.asarray(lr, dtype=np.float64)) > 0
    first_flat = np.nonzero(~rises)[0]
    rising = int(first_flat[0]) if first_flat.size else int(rises.size)
    return rising + 1 if rising else 0
