"""Which source each row of training comes from: exact proportions over any prefix, without replaying any step.

Row g (counted over the whole run) asks its source for that source's next sample. Over the first g rows source s should
have had A_s(g) = sum over these rows of its weight. The rows are dealt by earliest deadline: sample j of source s may
come no earlier than where A_s passes j and no later than where it reaches j + 1, and among the sources that may come
the most urgent one does. With constant weights every deadline is met, so that the count of every source stays less than
one row from A_s after every row (Tijdeman, "The chairman assignment problem", Discrete Mathematics 32, 1980; Baruah et
al., "Proportionate progress", Algorithmica 15, 1996). Rounding each source's share by itself does not do: from three
sources on, the rounded shares of a prefix need not add up, and no rule that only compares weights over counts keeps
within a row (Balinski and Young 1975).

Weights are integers out of their sum, the period: after so many rows all counts are exact and the deal repeats. So a
stage is a table of one period, and row g is looked up in it, however far the run is.

Where the weights change, the counts go on from where they are: what a source is owed, it gets in the next stage. With
up to three sources the bound of one row still holds throughout. With more it may be passed for a moment, because no
rule that does not know the next stage's weights can keep it; knowing them would make what was seen depend on stages
added later.
"""

from __future__ import annotations

import heapq
import math
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Int16s: TypeAlias = NDArray[np.int16]
Int64s: TypeAlias = NDArray[np.int64]

# The longest period that is held exactly: weights with six decimals. A table takes about 1 microsecond a row to make.
LONGEST_PERIOD = 1_000_000


def integer_weights(weights: Sequence[float], *, longest: int = LONGEST_PERIOD) -> tuple[int, ...]:
    """The same proportions as integers without a common divisor; their sum, the period, is at most `longest`.

    A weight counts as the decimal it is written as: 0.1 is a tenth. Where the exact period would be longer, shares are
    rounded to parts of `longest` by largest remainders, and a positive weight keeps at least one part.
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
    parts[parts.index(max(parts))] += min(missing, 0)  # the parts that tiny weights were given
    divisor = math.gcd(*parts)
    return tuple(part // divisor for part in parts)


@dataclass(frozen=True)
class Stage:
    """From row `first_row` of the run on, source s has weights[s] of every sum(weights) rows."""

    first_row: int
    weights: tuple[int, ...]


class Mixture:
    """The source of every row of a run, and the row's sample number within its source."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        assert stages, "a mixture has at least one stage"
        assert stages[0].first_row == 0, "the first stage begins at row 0"
        assert len({len(stage.weights) for stage in stages}) == 1, "every stage has a weight for every source"
        first_rows = [stage.first_row for stage in stages]
        assert first_rows == sorted(set(first_rows)), f"stages begin one after the other, not at {first_rows}"
        self._stages = tuple(stages)
        self._first_rows = np.array(first_rows, dtype=np.int64)
        self._tables: list[_Table] = []  # made when first asked for, in order
        self._lock = threading.Lock()  # the loader's threads ask at the same time

    def rows(self, first_row: int, count: int) -> tuple[Int16s, Int64s]:
        """For rows first_row to first_row + count of the run: source numbers [count], sample numbers [count]."""
        rows = np.arange(first_row, first_row + count, dtype=np.int64)
        stage_of = np.searchsorted(self._first_rows, rows, side="right") - 1
        sources = np.empty(count, dtype=np.int16)
        samples = np.empty(count, dtype=np.int64)
        for number in np.unique(stage_of):
            here = stage_of == number
            sources[here], samples[here] = self._table(int(number)).look_up(rows[here])
        return sources, samples

    def _table(self, number: int) -> _Table:
        with self._lock:
            while len(self._tables) <= number:
                self._tables.append(self._next_table())
            return self._tables[number]

    def _next_table(self) -> _Table:
        number = len(self._tables)
        stage = self._stages[number]
        rows = self._stages[number + 1].first_row - stage.first_row if number + 1 < len(self._stages) else None
        if number:
            before, owed = self._tables[-1].at(stage.first_row)
        else:
            before, owed = np.zeros(len(stage.weights), dtype=np.int64), (Fraction(0),) * len(stage.weights)
        return _Table(stage, before, owed, rows)


class _Table:
    """One stage: rows [0, lead_in) as dealt, then the rest of the table again and again."""

    def __init__(self, stage: Stage, before: Int64s, owed: tuple[Fraction, ...], rows: int | None) -> None:
        self._stage = stage
        self._before = before  # samples that each source has given before this stage
        self._owed = owed  # A_s - count_s at the start of this stage
        dealt, self._lead_in = _deal(stage.weights, owed, rows)
        self._source = np.frombuffer(dealt, dtype=np.int16)
        self._cycle = len(self._source) - self._lead_in
        self._cycle_counts = np.bincount(self._source[self._lead_in :], minlength=len(before)).astype(np.int64)
        self._rank = np.empty(len(self._source), dtype=np.int64)  # of the row among its source's rows in the table
        for s in range(len(before)):
            where = np.flatnonzero(self._source == s)
            self._rank[where] = np.arange(len(where))

    def look_up(self, rows: Int64s) -> tuple[Int16s, Int64s]:
        """Source and sample numbers [r] of rows [r] of the run that lie in this stage."""
        place = rows - self._stage.first_row
        laps = np.maximum(place - self._lead_in, 0) // max(self._cycle, 1)
        place = place - laps * self._cycle
        sources = self._source[place]
        return sources, self._before[sources] + self._rank[place] + laps * self._cycle_counts[sources]

    def at(self, row: int) -> tuple[Int64s, tuple[Fraction, ...]]:
        """Per source, after the rows of the run before `row`: samples given, and what is owed on top of them."""
        rows = row - self._stage.first_row
        laps = max(rows - self._lead_in, 0) // max(self._cycle, 1)
        here = np.bincount(self._source[: rows - laps * self._cycle], minlength=len(self._before))
        given = here.astype(np.int64) + laps * self._cycle_counts
        period = sum(self._stage.weights)
        owed = tuple(
            owed + Fraction(rows * weight, period) - int(count)
            for owed, weight, count in zip(self._owed, self._stage.weights, given, strict=True)
        )
        return self._before + given, owed


def _deal(weights: tuple[int, ...], owed: tuple[Fraction, ...], rows: int | None) -> tuple[array[int], int]:
    """Deal a stage's rows until its state recurs, or to its end: the source of each row, and where the cycle begins.

    The state is what each source is owed, looked at once a period: whatever follows depends on nothing else.
    """
    period = sum(weights)
    unit = math.lcm(period, *(part.denominator for part in owed))  # so that everything below is a whole number
    debt = [int(part * unit) for part in owed]
    step = [weight * unit // period for weight in weights]
    active = [s for s, weight in enumerate(weights) if weight]
    count = [0] * len(weights)
    dealt = array("h")
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
    while rows is None or len(dealt) < rows:
        state = tuple(debt[s] + len(dealt) * step[s] - count[s] * unit for s in active)
        if state in seen:
            return dealt, seen[state]
        seen[state] = len(dealt)
        stop = len(dealt) + period if rows is None else min(len(dealt) + period, rows)
        for row in range(len(dealt), stop):
            while waiting and waiting[0][0] <= row:
                enqueue(heapq.heappop(waiting)[1], row)
            # None is ready only where sources that have left are still owed rows: then the next one comes early.
            _, s = heapq.heappop(ready or waiting)
            dealt.append(s)
            count[s] += 1
            enqueue(s, row + 1)
    return dealt, len(dealt)
