"""The mixture: which source each row of training comes from, in exact proportions over any prefix of the run.

A source is here whatever has samples 0, 1, 2, ... to be drawn: a source's own stream, or a pool of old data (pool.py).

Row g, counted over the whole run, takes the next sample of its source. Over the first g rows source s is due
A_s(g) rows, the sum of its weight over these rows. The schedule is earliest deadline first: sample j of source s may
come no earlier than where A_s passes j and no later than where it reaches j + 1, and of the sources that may come the
one with the earliest deadline does. With constant weights every deadline is met, so the count of every source stays
less than one row from A_s after every row (Tijdeman, "The chairman assignment problem", Discrete Mathematics 32, 1980;
Baruah et al., "Proportionate progress", Algorithmica 15, 1996). Rounding each source's share by itself is not enough:
from three sources on, the rounded shares of a prefix need not add up, and no rule that only compares weights over
counts stays within a row (Balinski and Young 1975).

Weights are integers, and their sum is the period: after a period all counts are exact and the schedule repeats. So the
table of a stage holds one period, and row g is looked up in it without replaying the rows before.

When the weights change, the counts continue: what a source is owed at the end of a stage, it gets in the next one. With
up to three sources the bound of one row still holds throughout. With more it may be exceeded for a moment, because no
rule can keep it without knowing the next stage's weights, and if it knew them, the rows of a stage would depend on
stages that are added later.
"""

from __future__ import annotations

import heapq
import math
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Int16s: TypeAlias = NDArray[np.int16]
Int64s: TypeAlias = NDArray[np.int64]

# Weights with six decimals are exact within this period. A table takes about 1 microsecond a row to make.
LONGEST_PERIOD = 1_000_000


def integer_weights(weights: Sequence[float | Fraction], *, longest: int = LONGEST_PERIOD) -> tuple[int, ...]:
    """Return the weights as integers without a common divisor, whose sum, the period, is at most `longest`.

    A weight counts as the decimal that it is written as: 0.1 is a tenth; a fraction counts as itself. If the exact
    period would be longer, shares are rounded to parts of `longest` by largest remainders, and a positive weight keeps
    at least one part.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    total = sum(exact)
    assert total > 0, f"weights {weights} must be at least 0 and not all 0"
    shares = [weight / total for weight in exact]
    period = math.lcm(*(share.denominator for share in shares))
    if period <= longest:
        return tuple(int(share * period) for share in shares)
    parts = [max(int(share * longest), 1 if share else 0) for share in shares]
    by_remainder = sorted(range(len(parts)), key=lambda s: (parts[s] - shares[s] * longest, s))
    missing = longest - sum(parts)
    for s in by_remainder[: max(missing, 0)]:
        parts[s] += 1
    parts[parts.index(max(parts))] += min(missing, 0)  # the largest share pays for the parts that tiny weights keep
    divisor = math.gcd(*parts)
    return tuple(part // divisor for part in parts)


@dataclass(frozen=True)
class MixtureStage:
    """The weights from row `first_row` of the run on: source s has weights[s] of every sum(weights) rows."""

    first_row: int
    weights: tuple[int, ...]


class Mixture:
    """The source of every row of a run, and the row's sample number within its source."""

    def __init__(self, stages: Sequence[MixtureStage]) -> None:
        assert stages, "a mixture has at least one stage"
        assert stages[0].first_row == 0, "the first stage begins at row 0"
        assert len({len(stage.weights) for stage in stages}) == 1, "every stage has a weight for every source"
        first_rows = [stage.first_row for stage in stages]
        assert first_rows == sorted(set(first_rows)), f"stages must begin one after the other, not at {first_rows}"
        self._stages = tuple(stages)
        self._first_rows = np.array(first_rows, dtype=np.int64)
        self._tables: list[_StageTable] = []  # in the order of the stages, each made on first use
        self._lock = threading.Lock()  # the loader's threads look up rows at the same time

    def rows(self, first_row: int, count: int) -> tuple[Int16s, Int64s]:
        """Return source numbers and sample numbers [count] of the run's rows first_row to first_row + count."""
        rows = np.arange(first_row, first_row + count, dtype=np.int64)
        stage_of = np.searchsorted(self._first_rows, rows, side="right") - 1
        sources = np.empty(count, dtype=np.int16)
        samples = np.empty(count, dtype=np.int64)
        for number in np.unique(stage_of):
            in_stage = stage_of == number
            sources[in_stage], samples[in_stage] = self._table(int(number)).look_up(rows[in_stage])
        return sources, samples

    def counts(self, row: int) -> Int64s:
        """Return for each source how many of the run's rows before `row` are its: exactly, by the stages' tables."""
        number = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return self._table(number).counts_at(row)[0]

    def expected_rows(self, count: int) -> list[float]:
        """Return for each source how many of the run's first `count` rows it is due; the real number is near it.

        No table is made for it.
        """
        ends = [*(stage.first_row for stage in self._stages[1:]), count]
        rows = [0.0] * len(self._stages[0].weights)
        for stage, end in zip(self._stages, ends, strict=True):
            length = max(min(end, count) - stage.first_row, 0)
            for source, weight in enumerate(stage.weights):
                rows[source] += length * weight / sum(stage.weights)
        return rows

    def _table(self, number: int) -> _StageTable:
        with self._lock:
            while len(self._tables) <= number:
                self._tables.append(self._next_table())
            return self._tables[number]

    def _next_table(self) -> _StageTable:
        number = len(self._tables)
        stage = self._stages[number]
        rows = self._stages[number + 1].first_row - stage.first_row if number + 1 < len(self._stages) else None
        if number:
            before, owed = self._tables[-1].counts_at(stage.first_row)
        else:
            before, owed = np.zeros(len(stage.weights), dtype=np.int64), (Fraction(0),) * len(stage.weights)
        return _StageTable(stage, before, owed, rows)


class _StageTable:
    """The schedule of one stage: its first `lead_in` rows once, then the rest of the table as a cycle."""

    def __init__(self, stage: MixtureStage, before: Int64s, owed: tuple[Fraction, ...], rows: int | None) -> None:
        self._stage = stage
        self._before = before  # the number of samples of each source before this stage
        self._owed = owed  # A_s - count_s at the start of this stage
        schedule, self._lead_in = _schedule(stage.weights, owed, rows)
        self._source = np.frombuffer(schedule, dtype=np.int16)
        self._cycle = len(self._source) - self._lead_in
        self._cycle_counts = np.bincount(self._source[self._lead_in :], minlength=len(before)).astype(np.int64)
        self._ordinal = np.empty(len(self._source), dtype=np.int64)  # of a row among its source's rows in the table
        for s in range(len(before)):
            rows_of_source = np.flatnonzero(self._source == s)
            self._ordinal[rows_of_source] = np.arange(len(rows_of_source))

    def look_up(self, rows: Int64s) -> tuple[Int16s, Int64s]:
        """Return source and sample numbers [r] of the run's rows [r], all of which lie in this stage."""
        index = rows - self._stage.first_row
        cycles = np.maximum(index - self._lead_in, 0) // max(self._cycle, 1)
        index = index - cycles * self._cycle
        sources = self._source[index]
        return sources, self._before[sources] + self._ordinal[index] + cycles * self._cycle_counts[sources]

    def counts_at(self, row: int) -> tuple[Int64s, tuple[Fraction, ...]]:
        """Return for each source how many samples the run's rows before `row` took, and how many it is still owed."""
        rows = row - self._stage.first_row
        cycles = max(rows - self._lead_in, 0) // max(self._cycle, 1)
        in_table = np.bincount(self._source[: rows - cycles * self._cycle], minlength=len(self._before))
        taken = in_table.astype(np.int64) + cycles * self._cycle_counts
        period = sum(self._stage.weights)
        owed = tuple(
            owed + Fraction(rows * weight, period) - int(count)
            for owed, weight, count in zip(self._owed, self._stage.weights, taken, strict=True)
        )
        return self._before + taken, owed


@lru_cache(maxsize=8)  # a start asks several times what the stages before a replay have read
def _schedule(weights: tuple[int, ...], owed: tuple[Fraction, ...], rows: int | None) -> tuple[array[int], int]:
    """Schedule a stage's rows until its state recurs, or to its end.

    Returns the source of each row, and the row at which the cycle begins. The state is what each source is owed,
    compared once a period; what follows depends on nothing else.
    """
    period = sum(weights)
    unit = math.lcm(period, *(part.denominator for part in owed))  # so that everything below is an integer
    debt = [int(part * unit) for part in owed]
    step = [weight * unit // period for weight in weights]
    active = [s for s, weight in enumerate(weights) if weight]
    count = [0] * len(weights)
    schedule = array("h")
    waiting: list[tuple[int, int]] = []  # (first row that its next sample may have, source)
    ready: list[tuple[int, int]] = []  # (last row that its next sample may have, source)

    def enqueue(s: int, next_row: int) -> None:
        first = (count[s] * unit - debt[s]) // step[s]
        if first <= next_row:
            heapq.heappush(ready, (-((debt[s] - (count[s] + 1) * unit) // step[s]), s))
        else:
            heapq.heappush(waiting, (first, s))

    for s in active:
        enqueue(s, 0)
    seen: dict[tuple[int, ...], int] = {}
    while rows is None or len(schedule) < rows:
        state = tuple(debt[s] + len(schedule) * step[s] - count[s] * unit for s in active)
        if state in seen:
            return schedule, seen[state]
        seen[state] = len(schedule)
        stop = len(schedule) + period if rows is None else min(len(schedule) + period, rows)
        for row in range(len(schedule), stop):
            while waiting and waiting[0][0] <= row:
                enqueue(heapq.heappop(waiting)[1], row)
            # No source is ready only if sources that have left are still owed rows: then the next one comes early.
            _, s = heapq.heappop(ready or waiting)
            schedule.append(s)
            count[s] += 1
            enqueue(s, row + 1)
    return schedule, len(schedule)
