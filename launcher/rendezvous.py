"""Where the ranks of a run first meet: the key-value store behind the process group."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from launcher.environment import Ranks


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
