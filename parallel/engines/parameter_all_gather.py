"""The all-gather of updated parameters from their owner ranks to all data ranks, overlapped with the optimizer step.

Each owner's segment of the flat buffer is divided into buckets of complete parameters, in the order in which optimizers
finish them. Buckets are broadcast in rounds: in round i, the i-th bucket of every owner. So all ranks start the same
broadcasts in the same order. A rank starts round i as soon as its own i-th bucket is updated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.distributed as dist
from torch import Tensor

from optim.chunks import chunk_slices
from optim.parameters import Param
from parallel.engines.flat_buffers import FlatLayout
from parallel.mesh import Axis
from parallel.waiting import wait_for_collectives

# Size of one bucket: large, so that few are needed; small next to an owner's segment, so that most are sent while the
# owner still works.
BUCKET_BYTES = 16 << 20


class ParameterAllGather:
    """Sends the parameters that this rank owns, and receives all others."""

    def __init__(self, layout: FlatLayout, data: Axis, *, weights: Tensor, masters: Tensor | None) -> None:
        """`weights`: the flat buffer of all owners' weights, in the dtype of forward and backward.

        `masters`: the float32 masters of this owner's segment, or None if the weights themselves are the masters.
        With a layout of one owner nothing is sent: every data rank owns all parameters.
        """
        self._data = data
        self._weights = weights
        self._owner = data.rank if len(layout.segments) > 1 else 0
        self._start = layout.segments[self._owner][0]
        self._masters = masters
        self._sends = len(layout.segments) > 1
        self._ranges: list[list[tuple[int, int]]] = []  # by owner, of each bucket: first element and end
        self._names: list[set[str]] = []  # parameters of this owner's buckets
        for owner in range(len(layout.segments)):
            ranges = layout.ranges_of(owner)
            sizes = [(end - start) * weights.element_size() for _, start, end in ranges]
            buckets = list(chunk_slices(sizes, BUCKET_BYTES if self._sends else sum(sizes)))
            self._ranges.append([(ranges[bucket][0][1], ranges[bucket][-1][2]) for bucket in buckets])
            if owner == self._owner:
                self._names = [{shard.name for shard, _, _ in ranges[bucket]} for bucket in buckets]
        self._rounds = max(len(ranges) for ranges in self._ranges)
        self._bucket_of = {name: number for number, names in enumerate(self._names) for name in names}

    def gather_as_updated(self, updated: Iterable[Sequence[Param]]) -> None:
        """Runs the optimizer step `updated` and sends each bucket as soon as its parameters are updated.

        Returns when this rank has all weights.
        """
        missing = [set(names) for names in self._names]
        pending: list[dist.Work] = []
        started = 0
        for params in updated:
            for param in params:
                missing[self._bucket_of[param.name]].discard(param.name)
            while started < len(missing) and not missing[started]:
                pending += self._start_round(started)
                started += 1
        assert not any(missing[started:]), "the optimizer has not yielded every parameter"
        for number in range(started, self._rounds):
            pending += self._start_round(number)
        wait_for_collectives(pending)

    def gather_all(self) -> None:
        """Sends all weights as they are."""
        for number in range(self._rounds):
            wait_for_collectives(self._start_round(number))

    def _start_round(self, number: int) -> list[dist.Work]:
        ranges = self._ranges[self._owner]
        if self._masters is not None and number < len(ranges):
            start, end = ranges[number]
            self._weights[start:end].copy_(self._masters[start - self._start : end - self._start])
        if not self._sends:
            return []
        return [
            dist.broadcast(
                self._weights[slice(*ranges[number])], group_src=owner, group=self._data.group, async_op=True
            )
            for owner, ranges in enumerate(self._ranges)
            if number < len(ranges)
        ]
