"""The best lr and batch of a sweep: a parabola through the best value and its neighbours, along each key by itself.

Near its minimum the loss is a parabola in the logarithm of the lr, and of the batch. A full grid is not needed: a cross
of values through the best one is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from settings import UserError


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep: the values of its keys, such as `lr`, and its last loss."""

    values: Mapping[str, float]
    loss: float


def best_values(runs: Sequence[SweptRun], *, name: str) -> dict[str, float]:
    """Returns the best value of each key that the sweep changes; runs of equal values (seeds) are averaged.

    `name`: of the sweep, for messages. Raises UserError if the best value of a key lies at the edge of the sweep.
    """
    if not runs:
        raise UserError(f"{name} has no finished run whose loss is finite")
    groups: dict[tuple[tuple[str, float], ...], list[float]] = {}
    for run in runs:
        groups.setdefault(tuple(sorted(run.values.items())), []).append(run.loss)
    means = {key: float(np.mean(losses)) for key, losses in groups.items()}
    best = dict(min(means.items(), key=lambda item: item[1])[0])
    found = {}
    for key in best:
        line = {
            dict(values)[key]: loss
            for values, loss in means.items()
            if all(value == best[other] for other, value in values if other != key)
        }
        found[key] = _vertex(line, best[key], what=f"{name}: the best {key}")
    return found


def _vertex(losses: Mapping[float, float], best: float, *, what: str) -> float:
    """Returns the minimum of the parabola through the best value and its neighbours; the value, if it is alone."""
    values = sorted(losses)
    if len(values) == 1:
        return best
    at = values.index(best)
    if at in (0, len(values) - 1):
        side = "smaller" if at == 0 else "larger"
        raise UserError(f"{what}, {best:g}, lies at the edge of the sweep; add {side} values")
    around = values[at - 1 : at + 2]
    a, b, _ = np.polyfit(np.log(around) - np.log(best), [losses[value] for value in around], 2)
    return best * float(np.exp(-b / (2 * a))) if a > 0 else best
