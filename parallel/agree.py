"""Runs an action on every rank, with one outcome for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from parallel.gather import gather_json
from settings import RunError, UserError


def agree(action: Callable[[], Any], group: dist.ProcessGroup | None = None) -> list[Any]:
    """Runs the action on every rank and returns every rank's result, by rank. A collective.

    If it raises on one rank, it raises on all: no rank waits for one that has failed.
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
    for rank, outcome in enumerate(everyone):
        if "failure" in outcome:
            raise UserError(outcome["failure"]) if outcome["user"] else RunError(f"rank {rank}: {outcome['failure']}")
    return [outcome["result"] for outcome in everyone]
