"""Equally shaped matrices as batches: one large operation in place of many small ones, with bounded scratch memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# Scratch of one buffer. On a CPU a batch should stay in the last-level cache between the passes over it; on a GPU it
# should fill the device and stay small beside the model.
CPU_SCRATCH_BYTES = 8 << 20
GPU_SCRATCH_BYTES = 256 << 20


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """The items by equal key, in order of first appearance, and in the given order within a group."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def scratch_bytes(device: torch.device) -> int:
    """The budget of one scratch buffer on a device."""
    return CPU_SCRATCH_BYTES if device.type == "cpu" else GPU_SCRATCH_BYTES


def runs(sizes: Sequence[int], budget: int) -> Iterator[slice]:
    """Consecutive slices whose sizes add up to at most `budget` (one item at least)."""
    start, total = 0, 0
    for position, size in enumerate(sizes):
        if position > start and total + size > budget:
            yield slice(start, position)
            start, total = position, 0
        total += size
    if sizes:
        yield slice(start, len(sizes))


class Scratch:
    """Buffers that live as long as the optimizer: fresh memory would be paged in anew in every step."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """An uninitialised tensor of `shape`; it is the same memory whenever `name` is."""
        size = torch.Size(shape).numel()
        key = (name, like.device, like.dtype)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[key] = torch.empty(size, device=like.device, dtype=like.dtype)
        return buffer[:size].view(*shape)
