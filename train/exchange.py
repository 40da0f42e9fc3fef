"""What ranks tell each other in JSON: nothing that is received is ever unpickled. Collectives of the group given."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from settings import RunError, UserError


def gather_json(value: Any, group: dist.ProcessGroup) -> list[Any]:
    """Every rank's value, by rank. A collective of a group on the CPU."""
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


def agree(action: Callable[[], Any], group: dist.ProcessGroup) -> list[Any]:
    """Do something on every rank and give every rank's result, by rank. A collective.

    Where it raised on some rank, it raises on all: no rank is left waiting for one that has failed.
    """
    failure: Exception | None = None
    mine: dict[str, Any] = {}
    try:
        mine["result"] = action()
    except Exception as error:
        failure = error
        mine = {"failure": str(error) or type(error).__name__, "user": isinstance(error, UserError)}
    everyone = gather_json(mine, group)
    if failure is not None:
        raise failure
    for rank, theirs in enumerate(everyone):
        if "failure" in theirs:
            raise UserError(theirs["failure"]) if theirs["user"] else RunError(f"rank {rank}: {theirs['failure']}")
    return [theirs["result"] for theirs in everyone]
