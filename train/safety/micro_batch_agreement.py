"""The agreement of all ranks on the micro-batch before which a step is dropped.

Between micro-batches the ranks do not wait for each other, and some may have begun a micro-batch that others have not.
A collective could not meet them, so they exchange a few values through the store:

1. A rank that wants to drop the step sets `requested`, which the others look for now and then.
2. A rank that has seen it announces, before each micro-batch, how many it will have begun with this one.
3. When all ranks have announced something, rank 0 sets `closing`, reads the announcements, and decides for the largest.

A rank announces first and looks for `closing` afterwards. So either rank 0 reads the announcement, or the rank sees
`closing` and waits for the decision before it begins: no rank has begun the micro-batch that is decided for. Rank 0
never waits, so the ranks that wait for it, in the store or within a micro-batch, go on. If a rank begins its last
micro-batch meanwhile, no rank drops the step.
"""

from __future__ import annotations

from torch._C._distributed_c10d import PrefixStore, Store

_REQUESTED, _CLOSING, _DECISION = "requested", "closing", "decision"


class MicroBatchAgreement:
    """One rank's part in the agreement, for one step."""

    def __init__(self, store: Store, *, step: int, rank: int, world_size: int) -> None:
        self._store = PrefixStore(f"drop/{step}", store)
        self._rank = rank
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
            self._end = self._decide(index) if self._rank == 0 else self._read_decision(index)
        return self._end is not None and index >= self._end

    def _decide(self, index: int) -> int | None:
        announced = []
        if self._others:
            if not self._store.check(self._others):
                return None
            self._store.set(_CLOSING, "")
            announced = [int(value) for value in self._store.multi_get(self._others)]
        end = max([index, *announced])
        self._store.set(_DECISION, str(end))
        return end

    def _read_decision(self, index: int) -> int | None:
        self._store.set(f"begun/{self._rank}", str(index + 1))
        return int(self._store.get(_DECISION)) if self._store.check([_CLOSING]) else None
