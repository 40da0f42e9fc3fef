"""The key-value store at which the ranks of a run meet, and through which they name the ranks that hang."""

from __future__ import annotations

import threading
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from launcher.processes.rank_info import RankInfo

_MOST_NAMED = 10


def open_store(rank_info: RankInfo, *, timeout_seconds: float) -> dist.Store:  # type: ignore[name-defined]
    """Opens the store of this run. Rank 0 serves it, except under torchrun, whose agent may.

    Returns when all ranks have connected. Raises torch's DistStoreError after `timeout_seconds`.
    """
    timeout = timedelta(seconds=timeout_seconds)
    if rank_info.launcher == "none":
        return dist.HashStore()  # type: ignore[attr-defined]
    if rank_info.launcher == "torchrun":  # torch reads torchrun's variables: the agent's store, prefixes of restarts
        store, _, _ = next(rendezvous("env://", rank_info.rank, rank_info.world_size, timeout=timeout))
        return store
    return dist.TCPStore(  # type: ignore[attr-defined]
        rank_info.master_addr,
        rank_info.master_port,
        rank_info.world_size,
        is_master=rank_info.rank == 0,
        timeout=timeout,
        master_listen_fd=rank_info.parent.store_fd if rank_info.parent else None,
    )


def name_unresponsive_ranks(store: dist.Store, rank_info: RankInfo, *, seconds: float) -> str:  # type: ignore[name-defined]
    """Announces to the other ranks that this one hangs, waits, and returns a line on those that announced nothing.

    Returns "" if a lower rank writes the line. Call it from another thread than the one that hangs. The store itself
    may not answer: the call takes at most 2 x `seconds`.
    """
    lines: list[str] = []
    thread = threading.Thread(target=lambda: lines.append(_exchange_hangs(store, rank_info, seconds)), daemon=True)
    thread.start()
    thread.join(2 * seconds)
    return lines[0] if lines else "the store of the ranks does not answer: see the rank or the agent that serves it"


def _exchange_hangs(store: dist.Store, rank_info: RankInfo, seconds: float) -> str:  # type: ignore[name-defined]
    store.set(f"hangs/{rank_info.rank}", "yes")
    threading.Event().wait(seconds)
    unresponsive = []
    for rank in range(rank_info.world_size):
        if not store.check([f"hangs/{rank}"]):
            unresponsive.append(rank)
        elif rank < rank_info.rank:
            return ""  # that rank writes the line
    if not unresponsive:
        return "all ranks hang"
    more = f" and {len(unresponsive) - _MOST_NAMED} more" if len(unresponsive) > _MOST_NAMED else ""
    names = ", ".join(map(str, unresponsive[:_MOST_NAMED]))
    return f"no answer from rank{'s' if len(unresponsive) > 1 else ''} {names}{more}: stopped, or out of reach"
