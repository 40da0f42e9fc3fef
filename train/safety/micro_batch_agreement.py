"""The agreement of all ranks to drop a step, and on the micro-batch before which each of them does.

Between micro-batches the data ranks do not wait for each other, so a collective could not meet them. They exchange a
few values through the store:

1. A rank that wants to drop the step sets `requested`, which the others look for now and then.
2. A rank that has seen it announces, before each micro-batch, how many it will have begun with this one.
3. When all ranks have announced something, rank 0 sets `closing`, reads the announcements, and decides.

A rank announces first and looks for `closing` afterwards. So either rank 0 reads the announcement, or the rank sees
`closing` and waits for the decision before it begins. Rank 0 never waits, so the ranks that wait for it, in the store
or within a micro-batch, go on.

If a rank has begun its last micro-batch, it may be on its way to the reduction of the gradients: no rank drops the
step. Otherwise the tensor ranks of each data rank, which meet in every micro-batch, all end before the one that none
of them has begun. Other data ranks may end before another one: the faster ones need not be caught up with.
"""

from __future__ import annotations

import json

from torch._C._distributed_c10d import PrefixStore, Store

_REQUESTED, _CLOSING, _DECISION = "requested", "closing", "decision"


class MicroBatchAgreement:
    """One rank's part in the agreement, for one step of `count` micro-batches."""

    def __init__(self, store: Store, *, step: int, count: int, rank: int, data_rank: int, world_size: int) -> None:
        self._store = PrefixStore(f"drop/{step}", store)
        self._count = count
        self._rank, self._data_rank = rank, data_rank
        self._others = [f"begun/{other}" for other in range(1, world_size)]
        self._end: int | None = None

    def request(self) -> None:
        """Asks all ranks to drop the step."""
        self._store.set(_REQUESTED, "")

    def is_requested(self) -> bool:
        """Returns whether some rank has requested to drop the step."""
        return self._store.check([_REQUESTED])

    def ends_before(self, index: int) -> bool:
        """Returns whether the step is dropped before micro-batch `index`, from 0, which this rank is about to begin.

        To be called before every micro-batch once `is_requested` has returned True.
        """
        if self._end is None:
            if self._rank == 0:
                self._decide(index)
            else:
                self._store.set(f"begun/{self._rank}", json.dumps([self._data_rank, index + 1]))
            if self._store.check([_CLOSING]):
                self._end = json.loads(self._store.get(_DECISION))[str(self._data_rank)]
        return self._end is not None and index >= self._end

    def _decide(self, index: int) -> None:
        """Decides for every data rank, if all ranks have announced how many micro-batches they have begun."""
        if self._others and not self._store.check(self._others):
            return
        self._store.set(_CLOSING, "")
        ends = {self._data_rank: index}
        for value in self._store.multi_get(self._others) if self._others else ():
            data_rank, begun = json.loads(value)
            ends[data_rank] = max(ends.get(data_rank, 0), begun)
        if max(ends.values()) >= self._count:
            ends = dict.fromkeys(ends, self._count)
        self._store.set(_DECISION, json.dumps(ends))
