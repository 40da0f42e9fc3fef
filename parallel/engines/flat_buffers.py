"""Flat buffers of weights and gradients, in which the parameters of each owner rank are contiguous.

So the gradients of an owner are reduced, and its weights are broadcast, in few large collectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.parameter import allocate
from parallel.engines.gradient_accumulation import GradientAccumulation
from parallel.parameter_shards import ParameterShard

_ALIGNMENT = 16  # elements: views start on cache lines, which fused kernels prefer


@dataclass(frozen=True)
class FlatLayout:
    """The places of shards in a flat buffer: `order` lists shards owner by owner, `offsets` their first elements."""

    order: tuple[ParameterShard, ...]
    offsets: tuple[int, ...]
    segments: tuple[tuple[int, int], ...]  # of each owner: first element, end
    owners: tuple[int, ...]  # of each shard in `order`

    @classmethod
    def of(cls, shards: Sequence[ParameterShard], owners: Sequence[int], owner_count: int) -> FlatLayout:
        """Lays out the shards, whose owners are given in parallel, by owner; those of one owner keep their order."""
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
        """The number of elements of the buffer, padding included."""
        return self.segments[-1][1]

    def ranges_of(self, owner: int) -> list[tuple[ParameterShard, int, int]]:
        """Returns the shards of one owner, each with its first element in the buffer and its end, padding included."""
        indices = [index for index, its_owner in enumerate(self.owners) if its_owner == owner]
        ends = [*(self.offsets[index] for index in indices[1:]), self.segments[owner][1]]
        return [(self.order[index], self.offsets[index], end) for index, end in zip(indices, ends, strict=False)]

    def owned_by(self, owner: int) -> list[tuple[ParameterShard, int]]:
        """Returns the shards of one owner, each with its offset from the start of the owner's segment."""
        start = self.segments[owner][0]
        return [(shard, offset - start) for shard, offset, _ in self.ranges_of(owner)]


def view_of(buffer: Tensor, offset: int, shard: ParameterShard) -> Tensor:
    """Returns a shard's part of a flat buffer, in the parameter's shape."""
    return buffer[offset : offset + shard.parameter.numel()].view(shard.parameter.shape)


def move_into_flat_buffers(
    layout: FlatLayout, dtype: torch.dtype, device: torch.device, accumulation: GradientAccumulation
) -> tuple[Tensor, Tensor]:
    """Returns (weights in `dtype`, gradients in float32), both zeros [layout.size].

    The parameters, which were on the meta device, become views of the first. `accumulation` sums their gradients over
    all micro-batches of a step in views of the second.
    """
    weights = torch.zeros(layout.size, dtype=dtype, device=device)
    gradients = torch.zeros(layout.size, dtype=torch.float32, device=device)
    for shard, offset in zip(layout.order, layout.offsets, strict=True):
        allocate(shard.parameter, view_of(weights, offset, shard))
        accumulation.register(shard.parameter, view_of(gradients, offset, shard))
    return weights, gradients
