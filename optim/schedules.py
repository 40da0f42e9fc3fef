"""Learning-rate schedules: the lr of each step as a pure function of the step.

Steps are counted from 0; `ordinal` = step + 1 counts the steps of the run from 1 to total_steps. Warm-up is linear and
reaches the peak at ordinal warmup_steps; whatever follows starts from the peak there (at the first step, without
warm-up) and reaches its last value at ordinal total_steps, both exactly. Later steps keep the last value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from settings import Registry, Settings, UserError, may_move

Schedule = Callable[[int], float]


class ScheduleConfig(Settings):
    """A schedule. `build` gives lr(step)."""

    name: str = Field(description="Name of the schedule.")

    def build(self, *, peak_lr: float, total_steps: int) -> Schedule:
        """lr of the 0-based step. Raises UserError where the settings do not fit the run."""
        raise AssertionError(f"{type(self).__name__} has no build")

    def file_values(self) -> tuple[float, ...]:
        """The lr of each step, where a file says it; none where all follows from the config."""
        return ()


SCHEDULES = Registry("schedule", room="optim", base=ScheduleConfig)


class WarmedConfig(ScheduleConfig):
    """Linear warm-up, then what `_after` says of the ordinals from `start` (where lr = peak) to `total_steps`."""

    warmup_steps: int = Field(0, ge=0, description="Steps over which the lr rises linearly to the peak; 0 means none.")

    def build(self, *, peak_lr: float, total_steps: int) -> Schedule:
        if total_steps < 1:
            raise UserError(f"train.steps = {total_steps} must be at least 1")
        if self.warmup_steps > total_steps:
            raise UserError(
                f"schedule.warmup_steps = {self.warmup_steps} must be at most train.steps = {total_steps}; lower it"
            )
        warmup_steps, start = self.warmup_steps, max(self.warmup_steps, 1)
        after = self._after(peak_lr=peak_lr, start=start, total_steps=total_steps)

        def lr(step: int) -> float:
            ordinal = _ordinal(step, total_steps)
            return peak_lr * (ordinal / warmup_steps) if ordinal < warmup_steps else after(ordinal)

        return lr

    def _after(self, *, peak_lr: float, start: int, total_steps: int) -> Schedule:
        raise AssertionError(f"{type(self).__name__} has no _after")


@SCHEDULES.register
class ConstantConfig(WarmedConfig):
    """The peak, after warm-up."""

    name: Literal["constant"] = "constant"

    def _after(self, *, peak_lr: float, start: int, total_steps: int) -> Schedule:
        return lambda ordinal: peak_lr


class _DecayingConfig(WarmedConfig):
    min_lr: float = Field(0.0, ge=0, description="Lr of the last step, absolute.")

    def _check_min(self, peak_lr: float) -> None:
        if self.min_lr > peak_lr:
            raise UserError(f"schedule.min_lr = {self.min_lr} must be at most optim.lr = {peak_lr}; lower it")


@SCHEDULES.register
class LinearConfig(_DecayingConfig):
    """Linear from the peak to min_lr."""

    name: Literal["linear"] = "linear"

    def _after(self, *, peak_lr: float, start: int, total_steps: int) -> Schedule:
        self._check_min(peak_lr)
        return _segment(linear, peak_lr, self.min_lr, start, total_steps)


@SCHEDULES.register
class CosineConfig(_DecayingConfig):
    """Half a cosine from the peak to min_lr (arXiv 1608.03983, one cycle)."""

    name: Literal["cosine"] = "cosine"

    def _after(self, *, peak_lr: float, start: int, total_steps: int) -> Schedule:
        self._check_min(peak_lr)
        return _segment(cosine, peak_lr, self.min_lr, start, total_steps)


@SCHEDULES.register
class WsdConfig(_DecayingConfig):
    """Warm-up, stable, decay: the peak until decay_steps before the end, then a tail to min_lr (arXiv 2404.06395).

    The 1-sqrt tail is that of arXiv 2405.18392.
    """

    name: Literal["wsd"] = "wsd"
    decay_steps: int | None = Field(
        None, ge=1, description="Steps of the tail; null means a fifth of the run, rounded."
    )
    tail: Literal["linear", "cosine", "one_minus_sqrt", "exponential"] = Field(
        "one_minus_sqrt", description="Curve of the tail."
    )

    def _after(self, *, peak_lr: float, start: int, total_steps: int) -> Schedule:
        self._check_min(peak_lr)
        if self.tail == "exponential" and self.min_lr == 0:
            raise UserError("schedule.min_lr = 0 is never reached by schedule.tail = exponential; set it above 0")
        decay_steps = self.decay_steps
        if decay_steps is None:
            decay_steps = min(round(total_steps / 5), total_steps - start)
        decay_start = total_steps - decay_steps
        if decay_start < start and decay_steps > 0:
            raise UserError(
                f"schedule.decay_steps = {decay_steps} must leave room for the warm-up: at most "
                f"{total_steps - start} with train.steps = {total_steps} and warmup_steps = {self.warmup_steps}"
            )
        return _segment(TAILS[self.tail], peak_lr, self.min_lr, decay_start, total_steps)


@SCHEDULES.register
class InfiniteConfig(_DecayingConfig):
    """Warm-up, cool-down to a constant, constant, exponential anneal (arXiv 2403.08763).

    The default phases are those of a third party's code for the follow-up, arXiv 2503.02844. New data goes on from the
    end of the constant phase, without a new warm-up.
    """

    name: Literal["infinite"] = "infinite"
    min_lr: float = Field(1e-5, gt=0, description="Lr of the last step, absolute.")
    constant_lr: float | None = Field(
        None, gt=0, description="Lr of the constant phase, absolute; null means half the peak, but at least min_lr."
    )
    cooldown: Literal["cosine", "inverse_sqrt"] = Field("cosine", description="Curve of the cool-down.")
    cooldown_end_step: int | None = Field(
        None,
        ge=0,
        description="Last step of the cool-down; null means 15% of the run, or the end of a longer warm-up.",
    )
    constant_end_step: int | None = Field(
        None, ge=0, description="Last step of the constant phase; null means 80% of the run."
    )

    def _after(self, *, peak_lr: float, start: int, total_steps: int) -> Schedule:
        self._check_min(peak_lr)
        constant_lr = max(peak_lr / 2, self.min_lr) if self.constant_lr is None else self.constant_lr
        if not self.min_lr <= constant_lr <= peak_lr:
            raise UserError(
                f"schedule.constant_lr = {constant_lr} must lie between schedule.min_lr = {self.min_lr} "
                f"and optim.lr = {peak_lr}"
            )
        cooldown_end, constant_end = self.cooldown_end_step, self.constant_end_step
        if cooldown_end is None:
            cooldown_end = min(max(start, round(0.15 * total_steps)), total_steps)
        if constant_end is None:
            constant_end = min(max(cooldown_end, round(0.8 * total_steps)), total_steps)
        if not start <= cooldown_end <= constant_end <= total_steps:
            raise UserError(
                f"schedule: the phases must follow each other: warm-up to step {start}, "
                f"cooldown_end_step = {cooldown_end}, constant_end_step = {constant_end}, train.steps = {total_steps}"
            )
        shape = cosine if self.cooldown == "cosine" else inverse_sqrt
        cool = _segment(shape, peak_lr, constant_lr, start, cooldown_end)
        anneal = _segment(exponential, constant_lr, self.min_lr, constant_end, total_steps)
        return lambda ordinal: anneal(ordinal) if ordinal > max(constant_end, cooldown_end) else cool(ordinal)


@SCHEDULES.register
class TableConfig(ScheduleConfig):
    """One lr a step, absolute, from a file: a JSON list, or text with one number a line."""

    name: Literal["table"] = "table"
    file: Path = Field(
        description="The file: a JSON list, or text with one number a line.",
        json_schema_extra=may_move("the lr of each step has the same hash elsewhere"),
    )

    def file_values(self) -> tuple[float, ...]:
        return _read_table(self.file)

    def build(self, *, peak_lr: float, total_steps: int) -> Schedule:
        values = self.file_values()
        if len(values) < total_steps:
            raise UserError(
                f"schedule.file = {self.file} holds {len(values)} values, fewer than train.steps = {total_steps}; "
                "add values or lower train.steps"
            )
        return lambda step: values[_ordinal(step, total_steps) - 1]


Shape = Callable[[float, float, float], float]
"""(first lr, last lr, share done in [0, 1]) -> lr"""


def linear(first: float, last: float, done: float) -> float:
    return last + (first - last) * (1 - done)


def cosine(first: float, last: float, done: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))


def one_minus_sqrt(first: float, last: float, done: float) -> float:
    return last + (first - last) * (1 - math.sqrt(done))


def exponential(first: float, last: float, done: float) -> float:
    return first * math.exp(done * math.log(last / first))


def inverse_sqrt(first: float, last: float, done: float) -> float:
    """h(u) = 1/sqrt(1 + 10 u) - 1, scaled to the ends; the time scale 10 is also of that code."""
    return first + (last - first) * (1 / math.sqrt(1 + 10 * done) - 1) / (1 / math.sqrt(11) - 1)


TAILS: dict[str, Shape] = {
    "linear": linear,
    "cosine": cosine,
    "one_minus_sqrt": one_minus_sqrt,
    "exponential": exponential,
}


def _segment(shape: Shape, first: float, last: float, start: int, end: int) -> Schedule:
    """`first` up to ordinal `start`, `shape` from there, `last` from ordinal `end` on: the ends without rounding."""

    def lr(ordinal: int) -> float:
        if ordinal <= start:
            return first
        return last if ordinal >= end else shape(first, last, (ordinal - start) / (end - start))

    return lr


def _ordinal(step: int, total_steps: int) -> int:
    assert step >= 0, f"step {step} is before the first"
    return min(step + 1, total_steps)


def _read_table(path: Path) -> tuple[float, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"schedule.file = {path} cannot be read: {error}") from None
    try:
        plain = json.loads(text) if text.lstrip().startswith("[") else text.split()
        values = tuple(float(value) for value in plain)
    except (ValueError, TypeError) as error:
        raise UserError(f"schedule.file = {path} must hold one number a step: {error}") from None
    for line, value in enumerate(values):
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"schedule.file = {path}: lr {value} of step {line} must be finite and at least 0")
    return values
