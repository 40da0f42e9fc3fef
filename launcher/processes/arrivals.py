"""What a rank brings to the meeting of the ranks. It stays in their store, which so knows the node of each rank."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


@dataclass(frozen=True)
class Arrival:
    """The message of one rank to rank 0."""

    rank: int
    node: str
    token: str
    fingerprint: dict[str, Any]
    error: str  # "" if it has found none
    exit_code: int  # that of the error


def announce(store: Store, arrival: Arrival) -> None:
    """Puts an arrival into the store of a meeting."""
    store.set(_key(arrival.rank), json.dumps(asdict(arrival)))


def arrival_of(store: Store, rank: int) -> Arrival | None:
    """Returns what a rank has brought to the meeting of this store; None if it has not come. Never waits."""
    return Arrival(**json.loads(store.get(_key(rank)))) if store.check([_key(rank)]) else None


def _key(rank: int) -> str:
    return f"arrival/{rank}"
