"""The ranks of a run that hangs compare what they wait for, through the store at which they met."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

from torch._C._distributed_c10d import Store

from launcher.processes.arrivals import arrival_of
from launcher.processes.rank_info import RankInfo, name_ranks
from launcher.processes.stuck_collectives import explain_collectives
from parallel.flight_recorder import GroupProgress


def exchange_hangs(store: Store, rank_info: RankInfo, collectives: Sequence[GroupProgress], *, seconds: float) -> str:
    """Announces to the other ranks that this one hangs, waits, and returns what all announcements say together.

    That is a line on the ranks that announced nothing, and lines on the collectives that are stuck. Returns "" if a
    lower rank writes them. Call it from another thread than the one that hangs. The store itself may not answer: the
    call takes at most 2 x `seconds`.
    """
    texts: list[str] = []
    exchange = threading.Thread(
        target=lambda: texts.append(_exchange(store, rank_info, collectives, seconds)), daemon=True
    )
    exchange.start()
    exchange.join(2 * seconds)
    return texts[0] if texts else "the store of the ranks does not answer: see the rank or the agent that serves it"


def _exchange(store: Store, rank_info: RankInfo, collectives: Sequence[GroupProgress], seconds: float) -> str:
    store.set(_key(rank_info.rank), json.dumps([progress.to_plain() for progress in collectives]))
    threading.Event().wait(seconds)
    ranks = range(rank_info.world_size)
    announced = [rank for rank in ranks if store.check([_key(rank)])]
    if announced[0] < rank_info.rank:
        return ""  # that rank writes the lines

    def place(rank: int) -> str:
        arrival = arrival_of(store, rank)
        return f" on {arrival.node}" if arrival else ""

    unresponsive = [rank for rank in ranks if rank not in announced]
    line = f"no answer from {name_ranks(unresponsive, place)}: stopped, or out of reach"
    reports = {rank: _collectives_of(store, rank) for rank in announced}
    return "\n".join(filter(None, [line if unresponsive else "all ranks hang", explain_collectives(reports, place)]))


def _collectives_of(store: Store, rank: int) -> list[GroupProgress]:
    return [GroupProgress.model_validate(plain) for plain in json.loads(store.get(_key(rank)))]


def _key(rank: int) -> str:
    return f"hangs/{rank}"
