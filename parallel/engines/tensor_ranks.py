"""The collectives that optimizers of sharded matrices and their transforms need (optim/parameters.py)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.mesh import Axis, Mesh


class TensorAxisRanks:
    """TensorRanks over an axis of the mesh; with one rank every collective returns at once."""

    def __init__(self, axis: Axis) -> None:
        self.tp_size = axis.size
        self.rank = axis.rank
        self._group = axis.group

    def sum(self, x: Tensor) -> Tensor:
        if self.tp_size > 1:
            dist.all_reduce(x, group=self._group)
        return x

    def gather(self, x: Tensor, dim: int) -> Tensor:
        if self.tp_size == 1:
            return x
        shards = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.tp_size)]
        dist.all_gather(shards, x.contiguous(), group=self._group)
        return torch.cat(shards, dim)

    def reshard(self, x: Tensor, *, have: int, want: int) -> Tensor:
        if self.tp_size == 1 or have == want:
            return x
        outgoing = [piece.contiguous() for piece in x.chunk(self.tp_size, want)]
        incoming = [torch.empty_like(outgoing[self.rank]) for _ in range(self.tp_size)]
        dist.all_to_all(incoming, outgoing, group=self._group)
        return torch.cat(incoming, have)


def sum_over_world(mesh: Mesh) -> Callable[[Tensor], Tensor]:
    """Returns a function that sums a tensor, on whatever device it is, over all ranks of the run."""

    def total(x: Tensor) -> Tensor:
        if mesh.world_size == 1:
            return x
        summed = x.to(mesh.device)
        dist.all_reduce(summed)
        return summed.to(x.device)

    return total
