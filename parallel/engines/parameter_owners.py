"""Who owns which parameter among the data ranks, and the flat buffers that make ownership contiguous.

Conda, AdamP and Muon need whole matrices, which the flat partitions of ZeRO cut. Here each data rank owns whole
parameters, so that optimizer state is shared out as with ZeRO 1 and an update equals one process's. Parameters of one
owner lie side by side in one flat buffer of weights and one of gradients: a reduction or a broadcast is one message.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parallel.parameter_shards import ParameterShard

_ALIGNMENT = 16  # elements: views start on cache lines, as fused kernels like it


def assign_owners(costs: Sequence[float], owners: int) -> list[int]:
    """An owner for each parameter, so that the largest sum of costs is small: the costliest first, to the idlest.

    The same on every rank: ties go to the lower index.
    """
    idle = [(0.0, owner) for owner in range(owners)]
    chosen = [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, owner = heapq.heappop(idle)
        chosen[index] = owner
        heapq.heappush(idle, (load + costs[index], owner))
    return chosen


def sending_order(shards: Sequence[ParameterShard], costs: Sequence[float]) -> list[int]:
    """The places of the shards in the order in which owners should lay them out and finish them.

    What costs little per element first, and of that the large: its messages, large for the work, then travel behind the
    work on the rest, and what is finished last is a small message. Shapes together, as optimizers take them together.
    """

    def key(index: int) -> tuple[float, int, tuple[int, ...], int, int]:
        shard = shards[index]
        size = math.prod(shard.shape)
        return costs[index] / size, -size, shard.shape, -1 if shard.dim is None else shard.dim, index

    return sorted(range(len(shards)), key=key)


@dataclass(frozen=True)
class FlatLayout:
    """Where each shard lies in a flat buffer: `order` lists shards owner by owner, `offsets` their first elements."""

    order: tuple[ParameterShard, ...]
    offsets: tuple[int, ...]
    segments: tuple[tuple[int, int], ...]  # of each owner: first element, end
    owners: tuple[int, ...]  # of each shard in `order`

    @classmethod
    def of(cls, shards: Sequence[ParameterShard], owners: Sequence[int], owner_count: int) -> FlatLayout:
        """Lay out `shards`, each owned by the rank at the same place in `owners`; an owner's keep their order."""
        order: list[ParameterShard] = []
        offsets: list[int] = []
        segments: list[tuple[int, int]] = []
        end = 0
        for owner in range(owner_count):
            start = end
            for shard, its_owner in zip(shards, owners, strict=True):
                if its_owner == owner:
                    order.append(shard)
                    offsets.append(end)
                    end += -(-shard.parameter.numel() // _ALIGNMENT) * _ALIGNMENT
            segments.append((start, end))
        return cls(tuple(order), tuple(offsets), tuple(segments), tuple(sorted(owners)))

    @property
    def size(self) -> int:
        """Elements of a whole buffer."""
        return self.segments[-1][1]

    def placed(self, owner: int) -> list[tuple[ParameterShard, int, int]]:
        """The shards of one owner, each with its first element in the buffer and its end, the padding included."""
        own = [place for place, its_owner in enumerate(self.owners) if its_owner == owner]
        ends = [*(self.offsets[place] for place in own[1:]), self.segments[owner][1]]
        return [(self.order[place], self.offsets[place], end) for place, end in zip(own, ends, strict=False)]

    def owned_by(self, owner: int) -> list[tuple[ParameterShard, int]]:
        """The shards of one owner, each with its offset from the start of the owner's segment."""
        start = self.segments[owner][0]
        return [(shard, offset - start) for shard, offset, _ in self.placed(owner)]


def view_of(buffer: Tensor, offset: int, shard: ParameterShard) -> Tensor:
    """A shard's part of a flat buffer, in the parameter's shape."""
    return buffer[offset : offset + shard.parameter.numel()].view(shard.parameter.shape)


def move_into_flat_buffers(layout: FlatLayout, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """(weights in `dtype`, gradients in float32): the parameters become views of the first.

    Gradients add up in the second over all micro-batches: as the parameters' own `.grad` in float32, else by a hook
    that adds each new gradient in float32 and drops it.
    """
    weights = torch.zeros(layout.size, dtype=dtype, device=device)
    gradients = torch.zeros(layout.size, dtype=torch.float32, device=device)
    for shard, offset in zip(layout.order, layout.offsets, strict=True):
        view = view_of(weights, offset, shard)
        view.copy_(shard.parameter.data)
        shard.parameter.data = view
        gradient = view_of(gradients, offset, shard)
        if dtype == torch.float32:
            shard.parameter.grad = gradient
        else:
            shard.parameter.register_post_accumulate_grad_hook(_adder(gradient))
    return weights, gradients


class _adder:  # noqa: N801  (a function with one bound value)
    def __init__(self, total: Tensor) -> None:
        self._total = total

    def __call__(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._total.add_(parameter.grad)
        parameter.grad = None
