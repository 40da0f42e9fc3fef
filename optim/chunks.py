"""Grouping of parameters into buckets and chunks: few large operations, with bounded scratch memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# Size of one scratch buffer. On a CPU a chunk should stay in the last-level cache between the passes over it; on a GPU
# it should fill the device and stay small next to the model.
CPU_SCRATCH_BYTES = 8 << 20
GPU_SCRATCH_BYTES = 256 << 20


def bucket_by(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Groups items of equal key, in order of first appearance; a bucket keeps the order of its items."""
    buckets: dict[Hashable, list[T]] = {}
    for item in items:
        buckets.setdefault(key(item), []).append(item)
    return list(buckets.values())


def scratch_bytes(device: torch.device) -> int:
    """Returns the size limit of one scratch buffer on a device."""
    return CPU_SCRATCH_BYTES if device.type == "cpu" else GPU_SCRATCH_BYTES


def chunk_slices(sizes: Sequence[int], max_size: int) -> Iterator[slice]:
    """Splits a sequence into consecutive slices of at most `max_size` each; a larger item has a slice to itself."""
    start, total = 0, 0
    for position, size in enumerate(sizes):
        if position > start and total + size > max_size:
            yield slice(start, position)
            start, total = position, 0
        total += size
    if sizes:
        yield slice(start, len(sizes))


class ScratchBuffers:
    """Buffers that live as long as the optimizer: fresh memory would be paged in anew in every step."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Returns an uninitialised tensor of `shape`. Every call with the same `name` returns the same memory."""
        size = torch.Size(shape).numel()
        key = (name, like.device, like.dtype)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[key] = torch.empty(size, device=like.device, dtype=like.dtype)
        return buffer[:size].view(*shape)
