"""Runs an action on every rank, with one outcome for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from parallel.gather import broadcast_json, gather_json
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
        mine = _described(error)
    everyone = gather_json(mine, group)
    if failure is not None:
        raise failure
    for rank, outcome in enumerate(everyone):
        _raise_failure(rank, outcome)
    return [outcome["result"] for outcome in everyone]


def from_first_rank(action: Callable[[], Any], group: dist.ProcessGroup | None = None) -> Any:
    """Runs the action on the group's first rank alone, and returns its result on every rank. A collective.

    So a file that all ranks need is read once. If the action raises, all ranks raise.
    """
    failure: Exception | None = None
    outcome: dict[str, Any] = {}
    if dist.get_rank(group) == 0:
        try:
            outcome["result"] = action()
        except Exception as error:
            failure = error
            outcome = _described(error)
    outcome = broadcast_json(outcome, group)
    if failure is not None:
        raise failure
    _raise_failure(0, outcome)
    return outcome["result"]


def _described(error: Exception) -> dict[str, Any]:
    kind = error.kind if isinstance(error, UserError | RunError) else RunError.kind
    return {"failure": str(error) or type(error).__name__, "kind": kind}


def _raise_failure(rank: int, outcome: dict[str, Any]) -> None:
    if "failure" not in outcome:
        return
    if outcome["kind"] == UserError.kind:
        raise UserError(outcome["failure"])
    error = RunError(f"rank {rank}: {outcome['failure']}")
    error.kind = outcome["kind"]
    raise error
