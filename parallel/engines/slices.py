"""A rank's part of a checkpoint tensor: its shard over the tensor ranks, or a flat range of that (ZeRO 2 and 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

Index = tuple[int, ...]


@dataclass(frozen=True)
class Slice:
    """This rank's part of a checkpoint tensor: its shard along `dim` over the tensor axis, or the full tensor."""

    tensor: Tensor
    dim: int | None

    @property
    def shard_shape(self) -> Index:
        """The shape of this rank's shard."""
        return tuple(self.tensor.shape)

    def full_shape(self, tp_size: int) -> Index:
        """Returns the shape of the full tensor that `tp_size` tensor ranks hold together."""
        return tuple(size * (tp_size if dim == self.dim else 1) for dim, size in enumerate(self.shard_shape))

    def offsets(self, rank: int) -> Index:
        """Returns the index in the full tensor of the first element of tensor rank `rank`'s shard."""
        return tuple(rank * size if dim == self.dim else 0 for dim, size in enumerate(self.shard_shape))

    def boxes(self, rank: int) -> Iterator[tuple[Index, Tensor]]:
        """Yields the boxes of the full tensor that this part consists of: the first index, and a view of `tensor`."""
        yield self.offsets(rank), self.tensor

    def fill(self, shard: Tensor) -> None:
        """Copies this part of a shard."""
        self.tensor.copy_(shard)


@dataclass(frozen=True)
class FlatSlice(Slice):
    """The elements of a shard from `start` on, in row-major order. `tensor` is flat and contiguous."""

    start: int
    shape: Index  # of the shard

    @property
    def shard_shape(self) -> Index:
        return self.shape

    def boxes(self, rank: int) -> Iterator[tuple[Index, Tensor]]:
        shard_offsets = self.offsets(rank)
        taken = 0
        for offsets, shape in boxes_of_range(self.shape, self.start, self.start + len(self.tensor)):
            box = self.tensor[taken : taken + math.prod(shape)].view(shape)
            taken += box.numel()
            yield tuple(a + b for a, b in zip(shard_offsets, offsets, strict=True)), box

    def fill(self, shard: Tensor) -> None:
        self.tensor.copy_(shard.reshape(-1)[self.start : self.start + len(self.tensor)])


def boxes_of_range(shape: Sequence[int], start: int, end: int) -> Iterator[tuple[Index, Index]]:
    """Yields the boxes (offsets, shape) that the elements from `start` to `end` of a tensor consist of, in their order.

    Of a matrix these are at most three: the end of a row, full rows, and the beginning of a row.
    """
    if len(shape) < 2:
        yield (start,) * len(shape), (end - start,) * len(shape)
        return
    size = math.prod(shape[1:])  # of a row
    first_full = min(-(-start // size) * size, end)
    last_full = max(end // size * size, first_full)
    for begin, stop in ((start, first_full), (first_full, last_full), (last_full, end)):
        row = begin // size
        if begin < stop and stop - begin >= size:
            yield (row, *(0 for _ in shape[1:])), ((stop - begin) // size, *shape[1:])
        elif begin < stop:
            for offsets, box in boxes_of_range(shape[1:], begin - row * size, stop - row * size):
                yield (row, *offsets), (1, *box)
