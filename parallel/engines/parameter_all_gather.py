"""Updated weights on their way from owners to the other data ranks, while the owners go on computing.

Each owner's segment of the flat buffer is cut into messages of whole parameters, in the order in which optimizers
finish them. Messages go in rounds: the first of every owner, the second of every owner, and so on, so that all ranks
start the same broadcasts in the same order. A rank joins a round once its own part of it is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.distributed as dist
from torch import Tensor

from optim.batches import runs
from optim.optimizer import Param
from parallel.engines.parameter_owners import FlatLayout
from parallel.mesh import Axis

# Of one message: large, so that few are needed; small beside what one owner holds, so that most go during its work.
MESSAGE_BYTES = 16 << 20


class ParameterAllGather:
    """Sends what this owner has updated and receives what the others have."""

    def __init__(self, layout: FlatLayout, data: Axis, *, weights: Tensor, own_master: Tensor | None) -> None:
        """`weights` is the whole flat buffer; `own_master` the float32 masters of this owner's segment, where apart.

        With a layout of one owner nothing is sent: every data rank owns all.
        """
        self._data = data
        self._weights = weights
        self._me = data.rank if len(layout.segments) > 1 else 0
        self._start = layout.segments[self._me][0]
        self._master = own_master
        self._sends = len(layout.segments) > 1
        self._ranges: list[list[tuple[int, int]]] = []  # by owner, of each message: first element and end
        self._names: list[set[str]] = []  # of this owner's messages
        for owner in range(len(layout.segments)):
            placed = layout.placed(owner)
            cuts = list(runs([(end - start) * weights.element_size() for _, start, end in placed], MESSAGE_BYTES))
            self._ranges.append([(placed[cut][0][1], placed[cut][-1][2]) for cut in cuts])
            if owner == self._me:
                self._names = [{shard.name for shard, _, _ in placed[cut]} for cut in cuts]
        self._rounds = max(len(ranges) for ranges in self._ranges)
        self._message_of = {name: number for number, names in enumerate(self._names) for name in names}

    def exchange(self, done: Iterable[Sequence[Param]]) -> None:
        """Take parameters as they are done, send them in the rounds they belong to, and wait for everybody's."""
        missing = [set(names) for names in self._names]
        pending: list[dist.Work] = []
        started = 0
        for params in done:
            for param in params:
                missing[self._message_of[param.name]].discard(param.name)
            while started < len(missing) and not missing[started]:
                pending += self._start_round(started)
                started += 1
        assert not any(missing[started:]), "the optimizer has left out a parameter"
        for number in range(started, self._rounds):
            pending += self._start_round(number)
        for work in pending:
            work.wait()

    def exchange_all(self) -> None:
        """Send all weights as they are."""
        for number in range(self._rounds):
            for work in self._start_round(number):
                work.wait()

    def _start_round(self, number: int) -> list[dist.Work]:
        own = self._ranges[self._me]
        if self._master is not None and number < len(own):
            start, end = own[number]
            self._weights[start:end].copy_(self._master[start - self._start : end - self._start])
        if not self._sends:
            return []
        return [
            dist.broadcast(
                self._weights[slice(*ranges[number])], group_src=owner, group=self._data.group, async_op=True
            )
            for owner, ranges in enumerate(self._ranges)
            if number < len(ranges)
        ]
