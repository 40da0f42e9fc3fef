"""The ranks of a run that hangs name those that do not answer, through the store at which they met."""

from __future__ import annotations

import threading

from torch._C._distributed_c10d import Store

from launcher.processes.rank_info import RankInfo, name_ranks


def name_unresponsive_ranks(store: Store, rank_info: RankInfo, *, seconds: float) -> str:
    """Announces to the other ranks that this one hangs, waits, and returns a line on those that announced nothing.

    Returns "" if a lower rank writes the line. Call it from another thread than the one that hangs. The store itself
    may not answer: the call takes at most 2 x `seconds`.
    """
    lines: list[str] = []
    thread = threading.Thread(target=lambda: lines.append(_exchange_hangs(store, rank_info, seconds)), daemon=True)
    thread.start()
    thread.join(2 * seconds)
    return lines[0] if lines else "the store of the ranks does not answer: see the rank or the agent that serves it"


def _exchange_hangs(store: Store, rank_info: RankInfo, seconds: float) -> str:
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
    return f"no answer from {name_ranks(unresponsive)}: stopped, or out of reach"
