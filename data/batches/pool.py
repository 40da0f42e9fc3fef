"""The order in which old data is drawn from a pool: a pure function of (seed, pool, number of the draw).

A pool has up to two sections, which are drawn one after the other in every pass: what was not seen yet, then what was.
Draw j of a pool of n samples is draw `j mod n` of pass `j // n`, so nothing repeats before all of it is drawn. Within a
section, each pass has an order of its own (order.py). The one exception is the first pass over what was not seen: it
goes on in the order of the earlier run, so that what was drawn of it is a range of samples too.

Shapes: arrays are [r], one entry per row.
"""

from __future__ import annotations

import numpy as np

from data.batches.draw_plan import Pool
from data.batches.draws import Draw, Draws, total, without
from data.batches.order import Int64s, SequenceOrder, stable_key


def unseen_draws(pool: Pool) -> Draws:
    """Returns the samples of the first pass over the source that were not seen."""
    return without(Draw(0, pool.seen.sequences), pool.seen.draws)


class PoolOrder:
    """The samples of one pool in the order in which a run with this seed draws them."""

    def __init__(self, pool: Pool, *, seed: int) -> None:
        unseen = unseen_draws(pool) if pool.draw == "unseen_first" else ()
        rest = (Draw(0, pool.seen.sequences),) if pool.draw == "all" else pool.seen.draws
        self._sections = [
            _Section(unseen, seed=stable_key("replay unseen", seed), source=pool.source, keeps_first_pass=True),
            _Section(rest, seed=stable_key("replay", seed), source=pool.source, keeps_first_pass=False),
        ]
        self.size = sum(section.size for section in self._sections)
        assert self.size, f"the pool of source {pool.source} is empty"

    def samples_of(self, numbers: Int64s) -> Int64s:
        """Returns the sample numbers [r] of draws [r], which count from 0, in the order of `pool.seen.seed`."""
        passes, index = np.divmod(numbers, self.size)
        samples = np.empty_like(numbers)
        first = 0
        for section in self._sections:
            rows = (index >= first) & (index < first + section.size)
            if rows.any():
                samples[rows] = section.samples_at(index[rows] - first, passes[rows])
            first += section.size
        return samples


class _Section:
    """Samples that are drawn once a pass, in an order that each pass has for itself."""

    def __init__(self, draws: Draws, *, seed: int, source: str, keeps_first_pass: bool) -> None:
        self.size = total(draws)
        self._keeps_first_pass = keeps_first_pass
        self._order = SequenceOrder(seed=seed, source=source, size=max(self.size, 1))
        self._firsts = np.array([draw.first for draw in draws], dtype=np.int64)
        self._before = np.cumsum([0, *(draw.length for draw in draws)])[:-1]  # samples in the draws before each

    def samples_at(self, index: Int64s, passes: Int64s) -> Int64s:
        """Returns the sample numbers [r] of this section's draws number `index` [r] in passes [r]."""
        places = self._order.sequences_of(passes * self.size + index)
        if self._keeps_first_pass:
            places = np.where(passes == 0, index, places)
        draw = np.searchsorted(self._before, places, side="right") - 1
        found: Int64s = self._firsts[draw] + places - self._before[draw]
        return found
