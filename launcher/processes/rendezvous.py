"""Where the ranks of a run first meet, and tell each other of a hang: the key-value store behind the process group."""

from __future__ import annotations

import threading
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from launcher.processes.environment import Ranks


def open_store(ranks: Ranks, *, timeout_seconds: float) -> dist.Store:  # type: ignore[name-defined]
    """The store of this launch; rank 0 serves it, except under torchrun, whose agent may.

    Returns when all ranks are there, or raises torch's DistStoreError after `timeout_seconds`.
    """
    timeout = timedelta(seconds=timeout_seconds)
    if ranks.source == "single":
        return dist.HashStore()  # type: ignore[attr-defined]
    if ranks.source == "torchrun":  # torch's own reading of torchrun's variables: agent's store, restarts' prefixes
        store, _, _ = next(rendezvous("env://", ranks.rank, ranks.world_size, timeout=timeout))
        return store
    return dist.TCPStore(  # type: ignore[attr-defined]
        ranks.master_addr,
        ranks.master_port,
        ranks.world_size,
        is_master=ranks.rank == 0,
        timeout=timeout,
        master_listen_fd=ranks.parent.store_fd if ranks.parent else None,
    )


def silent_ranks(store: dist.Store, ranks: Ranks, *, seconds: float) -> str:  # type: ignore[name-defined]
    """Tell the others that this rank hangs, wait, and name those that did not do the same; "" where another rank will.

    For a thread beside the one that hangs. The store may be what does not answer: that takes no longer.
    """
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(_ask(store, ranks, seconds)), daemon=True)
    asking.start()
    asking.join(2 * seconds)
    return found[0] if found else "the store that the ranks met at does not answer: see the rank or agent that holds it"


def _ask(store: dist.Store, ranks: Ranks, seconds: float) -> str:  # type: ignore[name-defined]
    store.set(f"hangs/{ranks.rank}", "yes")
    threading.Event().wait(seconds)
    silent = []
    for rank in range(ranks.world_size):
        if not store.check([f"hangs/{rank}"]):
            silent.append(rank)
        elif rank < ranks.rank:
            return ""  # that one speaks for all
    if not silent:
        return "all ranks hang"
    shown = ", ".join(map(str, silent[:10])) + (f" and {len(silent) - 10} more" if len(silent) > 10 else "")
    return f"no answer from rank{'s' if len(silent) > 1 else ''} {shown}: stopped, or out of reach"
