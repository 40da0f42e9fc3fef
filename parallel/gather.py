"""Collects plain values of all ranks on every rank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist


def sums_over_world(values: Sequence[int]) -> list[int]:
    """Sums every rank's values, in int64, which wraps around. It is one message, and no device waits for it."""
    sums = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(sums)
    return [int(total) for total in sums]


def largest_over_world(values: Sequence[int]) -> list[int]:
    """Returns the largest of every rank's values in each place, in int64. It is one message, and no device waits."""
    largest = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return [int(value) for value in largest]


def broadcast_json(value: Any, group: dist.ProcessGroup | None = None) -> Any:
    """Returns the group's first rank's value on every rank. It is sent as JSON, once and not once a rank."""
    is_first = dist.get_rank(group) == 0
    payload = torch.frombuffer(bytearray(json.dumps(value if is_first else None).encode()), dtype=torch.uint8)
    size = torch.tensor([payload.numel()])
    dist.broadcast(size, group=group, group_src=0)
    received = payload if is_first else torch.zeros(int(size), dtype=torch.uint8)
    dist.broadcast(received, group=group, group_src=0)
    return json.loads(received.numpy().tobytes().decode())


def gather_json(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Returns every rank's value, by rank. They are sent as JSON (nothing that is received is ever unpickled)."""
    payload = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor([payload.numel()]), group=group)
    most = max(int(size) for size in sizes)
    padded = torch.zeros(most, dtype=torch.uint8)
    padded[: payload.numel()] = payload
    gathered = [torch.zeros(most, dtype=torch.uint8) for _ in sizes]
    dist.all_gather(gathered, padded, group=group)
    return [
        json.loads(part[: int(size)].numpy().tobytes().decode()) for part, size in zip(gathered, sizes, strict=True)
    ]
