"""The summary of a sweep: the mean loss of each combination over its seeds, with an interval, and the best one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from launcher.sweep.grid import Axis
from launcher.sweep.points import Point
from launcher.sweep.records import LossKind, Record

CONFIDENCE = 0.95
_LOSS_NAMES: dict[LossKind, str] = {
    "held_out": "held-out loss after the last step",
    "training": "mean training loss of the last tenth of the steps, since nothing was held out",
}


@dataclass(frozen=True)
class Estimate:
    """A mean with its t interval; `half_width` is NaN for fewer than two values."""

    mean: float
    half_width: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Returns the mean of independent values, such as those of several seeds, with its interval."""
        if len(values) < 2:
            return cls(float(np.mean(values)) if values else math.nan, math.nan)
        from scipy.special import stdtrit  # the quantile of Student's t

        deviation = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        return cls(float(np.mean(values)), float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * deviation)

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if math.isnan(self.half_width) else f" ± {self.half_width:.4f}")


@dataclass(frozen=True)
class Combination:
    """One combination of the grid's values, over its seeds."""

    values: Mapping[str, str]
    losses: Mapping[int, float]  # by seed; without those that diverged, failed or are missing
    skipped_steps: int  # of the runs that have a loss
    diverged: int
    missing: int

    @property
    def is_whole(self) -> bool:
        """Whether every seed has a loss."""
        return not self.diverged and not self.missing

    @property
    def estimate(self) -> Estimate:
        """The mean loss over the seeds."""
        return Estimate.of(list(self.losses.values()))

    @property
    def label(self) -> str:
        """The values for a reader."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items()) or "the config"


def combine(points: Sequence[Point], records: Mapping[str, Record]) -> list[Combination]:
    """Returns the combinations in the order of the grid."""
    groups: dict[tuple[tuple[str, str], ...], list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(point.values.items()), []).append(point)
    found = []
    for values, group in groups.items():
        ended = {point.seed: records[point.digest] for point in group if point.digest in records}
        losses = {seed: record.loss for seed, record in ended.items() if record.loss is not None}
        skipped = sum(ended[seed].skipped_steps for seed in losses)
        found.append(Combination(dict(values), losses, skipped, len(ended) - len(losses), len(group) - len(ended)))
    return found


def best_of(combinations: Sequence[Combination]) -> Combination | None:
    """Returns the combination with the least mean loss among those of which every seed has one; None without any."""
    whole = [combination for combination in combinations if combination.is_whole]
    return min(whole, key=lambda combination: combination.estimate.mean, default=None)


def table(combinations: Sequence[Combination], axes: Sequence[Axis]) -> list[list[str]]:
    """Returns the rows of the table, the best combination first, those without a loss last."""
    best = best_of(combinations)
    rows = [[*(axis.key for axis in axes), "seeds", "loss", "least", "largest", "minus best", ""]]
    for one in sorted(combinations, key=lambda one: (not one.is_whole, one.estimate.mean)):
        losses = list(one.losses.values())
        notes = ["best"] if one is best else []
        notes += [f"{count} {what}" for count, what in ((one.diverged, "diverged"), (one.missing, "missing")) if count]
        notes += [skipped_note(one.skipped_steps)] if one.skipped_steps else []
        rows.append(
            [
                *(one.values[axis.key] for axis in axes),
                str(len(losses)),
                str(one.estimate) if losses else "",
                f"{min(losses):.4f}" if losses else "",
                f"{max(losses):.4f}" if losses else "",
                "" if best is None or one is best or not losses else str(_difference(one, best)),
                ", ".join(notes),
            ]
        )
    return rows


def skipped_note(steps: int) -> str:
    """Returns how many steps were skipped, for a reader."""
    return f"{steps} step{'' if steps == 1 else 's'} skipped"


def closing_lines(combinations: Sequence[Combination], axes: Sequence[Axis], kinds: set[LossKind]) -> Iterator[str]:
    """Yields what the table's numbers are, the best combination with its interval, and how far it can be trusted."""
    if kinds:
        yield f"loss: {' or '.join(_LOSS_NAMES[kind] for kind in sorted(kinds))}, in nats a token"
    best = best_of(combinations)
    if best is None:
        yield "best: none, since no combination has a loss for every seed"
        return
    seeds, complete = len(best.losses), not any(one.missing for one in combinations)
    name = "best" if complete else "best so far"
    if seeds < 2:
        yield f"{name}: {best.label}, {best.estimate} (one seed: it has no interval; give --seeds 3)"
    else:
        yield f"{name}: {best.label}, {best.estimate} (mean and {CONFIDENCE:.0%} t interval over {seeds} seeds)"
        close = [one for one in combinations if one is not best and one.is_whole and _is_close(one, best)]
        if close:
            yield f"not told apart from it, by the differences of equal seeds: {'; '.join(one.label for one in close)}"
    for axis in axes:
        numbers = [number for value in axis.values if (number := as_number(value)) is not None]
        here = as_number(best.values[axis.key])
        if complete and len(numbers) == len(axis.values) > 1 and here in (min(numbers), max(numbers)):
            side = "smaller" if here == min(numbers) else "larger"
            yield f"the best {axis.key} lies at the edge of the grid: {side} values may be better"


def as_number(text: str) -> float | None:
    """Returns the number that a value of the grid is; None for any other value."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _difference(one: Combination, best: Combination) -> Estimate:
    """Returns the mean difference of equal seeds, which share the order of the data and the initial weights."""
    return Estimate.of([loss - best.losses[seed] for seed, loss in one.losses.items()])


def _is_close(one: Combination, best: Combination) -> bool:
    difference = _difference(one, best)
    return abs(difference.mean) <= difference.half_width
