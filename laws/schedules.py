"""The schedule families as whole arrays: what the search looks through.

The names, fields and values are those of a run's `schedule` section, so a mapping that describes one here is what a
config takes. This room imports no other, hence its own definitions, in numpy; a test holds the two equal.
Ordinals count steps from 1: warm-up reaches the peak at ordinal warmup_steps, the last value stands at total_steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from laws.curve import Floats, Schedule
from settings import Registry, Settings, UserError
from settings.files import write_text


class FamilyConfig(Settings):
    """A schedule family."""

    name: str

    def build(self, *, peak_lr: float, total_steps: int) -> Schedule:
        """The lr of every step. Raises UserError where the settings do not fit the run."""
        raise AssertionError(f"{type(self).__name__} has no build")


FAMILIES = Registry("schedule", room="laws", base=FamilyConfig)

Bend = Callable[[float, float, Floats], Floats]
"""(first lr, last lr, shares done in [0, 1]) -> lr"""


def linear(first: float, last: float, done: Floats) -> Floats:
    return last + (first - last) * (1 - done)


def cosine(first: float, last: float, done: Floats) -> Floats:
    return last + (first - last) * 0.5 * (1 + np.cos(np.pi * done))


def one_minus_sqrt(first: float, last: float, done: Floats) -> Floats:
    return last + (first - last) * (1 - np.sqrt(done))


def exponential(first: float, last: float, done: Floats) -> Floats:
    lr: Floats = first * np.exp(done * np.log(last / first))
    return lr


def inverse_sqrt(first: float, last: float, done: Floats) -> Floats:
    """h(u) = 1/sqrt(1 + 10 u) - 1, scaled to the ends (arXiv 2503.02844)."""
    lr: Floats = first + (last - first) * (1 / np.sqrt(1 + 10 * done) - 1) / (1 / np.sqrt(11) - 1)
    return lr


TAILS: dict[str, Bend] = {
    "linear": linear,
    "cosine": cosine,
    "one_minus_sqrt": one_minus_sqrt,
    "exponential": exponential,
}


class WarmedConfig(FamilyConfig):
    """Linear warm-up, then what `_after` makes of it."""

    warmup_steps: int = Field(0, ge=0)

    def build(self, *, peak_lr: float, total_steps: int) -> Schedule:
        """The lr of every step."""
        if total_steps < 1:
            raise UserError(f"steps = {total_steps} must be at least 1")
        if not peak_lr > 0:
            raise UserError(f"the peak lr = {peak_lr} must be above 0")
        if self.warmup_steps > total_steps:
            raise UserError(f"warmup_steps = {self.warmup_steps} must be at most the {total_steps} steps; lower it")
        lr_n = np.full(total_steps, peak_lr)
        self._after(lr_n, start=max(self.warmup_steps, 1))
        warming = np.arange(1, self.warmup_steps)
        lr_n[: warming.size] = peak_lr * (warming / max(self.warmup_steps, 1))
        return Schedule(lr_n, self.warmup_steps)

    def _after(self, lr_n: Floats, *, start: int) -> None:
        """Change lr_n, the peak everywhere, from ordinal `start` on."""
        raise AssertionError(f"{type(self).__name__} has no _after")


@FAMILIES.register
class ConstantFamily(WarmedConfig):
    """The peak, after warm-up."""

    name: Literal["constant"] = "constant"

    def _after(self, lr_n: Floats, *, start: int) -> None:
        pass


class DecayingConfig(WarmedConfig):
    """Ends at min_lr."""

    min_lr: float = Field(0.0, ge=0, description="absolute: the lr of the last step")

    def _check_min(self, peak_lr: float) -> None:
        if self.min_lr > peak_lr:
            raise UserError(f"min_lr = {self.min_lr} must be at most the peak lr = {peak_lr}; lower it")


@FAMILIES.register
class LinearFamily(DecayingConfig):
    """Linear from the peak to min_lr."""

    name: Literal["linear"] = "linear"

    def _after(self, lr_n: Floats, *, start: int) -> None:
        self._check_min(lr_n[0])
        _segment(lr_n, linear, float(lr_n[0]), self.min_lr, start, lr_n.size)


@FAMILIES.register
class CosineFamily(DecayingConfig):
    """Half a cosine from the peak to min_lr."""

    name: Literal["cosine"] = "cosine"

    def _after(self, lr_n: Floats, *, start: int) -> None:
        self._check_min(lr_n[0])
        _segment(lr_n, cosine, float(lr_n[0]), self.min_lr, start, lr_n.size)


@FAMILIES.register
class WsdFamily(DecayingConfig):
    """Warm-up, stable, decay (arXiv 2404.06395); the 1-sqrt tail is that of arXiv 2405.18392."""

    name: Literal["wsd"] = "wsd"
    decay_steps: int | None = Field(None, ge=1, description="None: a fifth of the run, rounded")
    tail: Literal["linear", "cosine", "one_minus_sqrt", "exponential"] = "one_minus_sqrt"

    def _after(self, lr_n: Floats, *, start: int) -> None:
        self._check_min(lr_n[0])
        if self.tail == "exponential" and self.min_lr == 0:
            raise UserError("min_lr = 0 is never reached by tail = exponential; set it above 0")
        decay_steps = self.decay_steps
        if decay_steps is None:
            decay_steps = min(round(lr_n.size / 5), lr_n.size - start)
        if lr_n.size - decay_steps < start and decay_steps > 0:
            raise UserError(
                f"decay_steps = {decay_steps} must leave room for the warm-up: at most {lr_n.size - start} "
                f"of {lr_n.size} steps"
            )
        _segment(lr_n, TAILS[self.tail], float(lr_n[0]), self.min_lr, lr_n.size - decay_steps, lr_n.size)


@FAMILIES.register
class InfiniteFamily(DecayingConfig):
    """Warm-up, cool-down to a constant, constant, exponential anneal (arXiv 2403.08763)."""

    name: Literal["infinite"] = "infinite"
    min_lr: float = Field(1e-5, gt=0, description="absolute: the lr of the last step")
    constant_lr: float | None = Field(None, gt=0, description="absolute; None: half the peak, but at least min_lr")
    cooldown: Literal["cosine", "inverse_sqrt"] = "cosine"
    cooldown_end_step: int | None = Field(None, ge=0, description="None: 15% of the run after warm-up")
    constant_end_step: int | None = Field(None, ge=0, description="None: 80% of the run")

    def _after(self, lr_n: Floats, *, start: int) -> None:
        peak_lr, total = float(lr_n[0]), lr_n.size
        self._check_min(peak_lr)
        constant_lr = max(peak_lr / 2, self.min_lr) if self.constant_lr is None else self.constant_lr
        if not self.min_lr <= constant_lr <= peak_lr:
            raise UserError(
                f"constant_lr = {constant_lr} must lie between min_lr = {self.min_lr} and the peak lr = {peak_lr}"
            )
        cooldown_end, constant_end = self.cooldown_end_step, self.constant_end_step
        if cooldown_end is None:
            cooldown_end = min(max(start, round(0.15 * total)), total)
        if constant_end is None:
            constant_end = min(max(cooldown_end, round(0.8 * total)), total)
        if not start <= cooldown_end <= constant_end <= total:
            raise UserError(
                f"the phases must follow each other: warm-up to step {start}, cooldown_end_step = {cooldown_end}, "
                f"constant_end_step = {constant_end}, steps = {total}"
            )
        bend = cosine if self.cooldown == "cosine" else inverse_sqrt
        _segment(lr_n, bend, peak_lr, constant_lr, start, cooldown_end)
        _segment(lr_n, exponential, constant_lr, self.min_lr, constant_end, total)


def write_table(schedule: Schedule, path: Path) -> None:
    """Write a schedule as a run's `schedule: {name: table, file: ...}` reads it, to the last bit."""
    try:
        write_text(path, json.dumps(schedule.lr.tolist()) + "\n")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None


def _segment(lr_n: Floats, bend: Bend, first: float, last: float, start: int, end: int) -> None:
    """After ordinal `start`, where `first` stands, along `bend`; `last` from ordinal `end` on."""
    done = np.arange(1, end - start) / max(end - start, 1)
    lr_n[start : start + done.size] = bend(first, last, done)
    lr_n[start + done.size :] = last
