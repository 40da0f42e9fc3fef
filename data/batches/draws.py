"""Draws: ranges of a source's sample numbers, which say which of its sequences were read or are still to be read.

Sample k of a source is a sequence by the source's order (data/batches/order.py), so a range of sample numbers names
sequences without a list of them. Ranges of a tuple are ascending and disjoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias


class Draw(NamedTuple):
    """The samples [first, first + length) of a source."""

    first: int
    length: int

    @property
    def end(self) -> int:
        """The number after the last one."""
        return self.first + self.length


Draws: TypeAlias = tuple[Draw, ...]


def total(draws: Iterable[Draw]) -> int:
    """Returns how many samples the draws have."""
    return sum(draw.length for draw in draws)


def without(draw: Draw, excluded: Iterable[Draw]) -> Draws:
    """Returns the samples of `draw` that are in none of `excluded`, which ascend and are disjoint."""
    left: list[Draw] = []
    first = draw.first
    for hole in excluded:
        if hole.first > first:
            left.append(Draw(first, min(hole.first, draw.end) - first))
        first = max(first, hole.end)
    left.append(Draw(first, draw.end - first))
    return tuple(part for part in left if part.length > 0)


def at_places(draws: Draws, places: Draw) -> Draws:
    """Returns the samples at some places of the list that the draws are when written one after the other."""
    found: list[Draw] = []
    before = 0
    for draw in draws:
        first = max(places.first - before, 0)
        count = min(places.end - before, draw.length) - first
        if count > 0:
            found.append(Draw(draw.first + first, count))
        before += draw.length
    return tuple(found)


def union(draws: Iterable[Draw]) -> Draws:
    """Returns the same samples as ascending ranges that neither overlap nor touch."""
    merged: list[Draw] = []
    for draw in sorted(part for part in draws if part.length > 0):
        if merged and draw.first <= merged[-1].end:
            merged[-1] = Draw(merged[-1].first, max(merged[-1].end, draw.end) - merged[-1].first)
        else:
            merged.append(draw)
    return tuple(merged)
