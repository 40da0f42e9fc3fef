"""The first documents of each group in an order, up to a limit, found without holding the documents in memory.

The documents lie in files, one for each task, and are read several times: as in a radix sort, each pass counts the
weight of every value of the next digit of the keys, until it is known behind which key each group reaches its limit.
Memory is a few kB for each group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_KEYS = 2
_DIGIT_BITS = 8
_DIGITS_OF_KEY = 64 // _DIGIT_BITS
_VALUES = 1 << _DIGIT_BITS
_SIGN = np.uint64(1 << 63)


@dataclass(frozen=True)
class RankedTask:
    """The documents of one task, in input order: those of a smaller key come first, of equal ones the earlier."""

    keys: UInt64s  # [documents, 2], the second one for documents of equal first ones
    groups: Int64s  # [documents], from 0
    weights: Int64s  # [documents], what a document adds to its group: at least 1


def descending_keys(scores: Float64s) -> UInt64s:
    """Return keys of which the smallest is that of the highest score; no score is NaN."""
    bits = (scores + 0.0).view(np.uint64)  # + 0.0 makes 0.0 of -0.0
    ascending = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return ~ascending


def total_weights(tasks: Iterable[RankedTask], *, groups: int) -> Int64s:
    """Return the weight of all documents of each group, [groups]."""
    totals = np.zeros(groups, dtype=np.int64)
    for task in tasks:
        np.add.at(totals, task.groups, task.weights)
    return totals


def take_first(tasks: Callable[[], Iterable[RankedTask]], limits: Int64s) -> Iterator[Bools]:
    """Yield for each task which documents are taken, [documents].

    Of each group, these are the first documents in the order whose weights do not exceed the group's limit, [groups],
    together; none is skipped to fit in a later one. `tasks` returns the same tasks each time that it is called.
    """
    boundary, remaining = _find_boundary(tasks, limits)
    for task in tasks():
        first, second = task.keys[:, 0], task.keys[:, 1]
        own_first, own_second = boundary[task.groups, 0], boundary[task.groups, 1]
        taken = (first < own_first) | ((first == own_first) & (second < own_second))
        for document in np.flatnonzero((first == own_first) & (second == own_second)).tolist():
            group = task.groups[document]
            taken[document] = task.weights[document] <= remaining[group]
            remaining[group] = remaining[group] - task.weights[document] if taken[document] else -1
        yield taken


def _find_boundary(tasks: Callable[[], Iterable[RankedTask]], limits: Int64s) -> tuple[UInt64s, Int64s]:
    """Return the keys [groups, 2] before which all documents are taken, and what remains of each limit behind them."""
    groups = len(limits)
    boundary = np.zeros((groups, _KEYS), dtype=np.uint64)
    remaining = limits.copy()
    is_open = limits > 0  # whether the boundary is among several documents still
    for place in range(_KEYS * _DIGITS_OF_KEY):
        key, digit = divmod(place, _DIGITS_OF_KEY)
        shift = np.uint64(64 - _DIGIT_BITS * (digit + 1))
        weights, counts = np.zeros((2, groups, _VALUES), dtype=np.int64)
        for task in tasks():
            matches = is_open[task.groups]
            for earlier in range(key):
                matches &= task.keys[:, earlier] == boundary[task.groups, earlier]
            if digit:
                above = shift + np.uint64(_DIGIT_BITS)
                matches &= task.keys[:, key] >> above == boundary[task.groups, key] >> above
            values = ((task.keys[matches, key] >> shift) & np.uint64(_VALUES - 1)).astype(np.int64)
            cells = task.groups[matches] * _VALUES + values
            np.add.at(weights.reshape(-1), cells, task.weights[matches])
            np.add.at(counts.reshape(-1), cells, 1)
        before = np.cumsum(weights, axis=1)
        for group in np.flatnonzero(is_open).tolist():
            value = int(np.searchsorted(before[group], remaining[group], side="right"))
            if value == _VALUES:  # all documents fit, which the first pass finds out
                boundary[group] = np.iinfo(np.uint64).max
                is_open[group] = False
                continue
            remaining[group] -= before[group, value - 1] if value else 0
            boundary[group, key] |= np.uint64(value) << shift
            is_open[group] = counts[group, value] > 1
        if not is_open.any():
            break
    return boundary, remaining
