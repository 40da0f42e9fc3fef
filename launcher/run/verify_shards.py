"""Shards are hashed by one process of a run: before the ranks are started, or by rank 0 of another's launch."""

from __future__ import annotations

import time

import torch.distributed as dist

from data.shards.verify import verify_shards
from launcher.processes.environment import Ranks
from launcher.run.config import RunConfig
from settings import UserError
from train.run_folder.folder import RunFolder

_POLL_SECONDS = 0.1
_OTHERS_HEAR_SECONDS = 5.0
_VERDICT, _HEARD = "shards/verdict", "shards/heard"


def verify(config: RunConfig) -> None:
    """See `verify_shards`; what is verified is remembered in the run folder."""
    verify_shards(config.data, RunFolder(config.run.path).verified_shards)


def verify_on_rank_0(config: RunConfig, ranks: Ranks, store: dist.Store) -> None:  # type: ignore[name-defined]
    """All ranks return, or raise UserError, once rank 0 has verified: however long it takes, no timeout applies."""
    if ranks.rank > 0:
        while not store.check([_VERDICT]):
            time.sleep(_POLL_SECONDS)
        verdict = store.get(_VERDICT).decode()
        store.add(_HEARD, 1)
        if verdict:
            raise UserError(verdict)
        return
    try:
        verify(config)
    except UserError as error:
        store.set(_VERDICT, str(error))
        deadline = time.monotonic() + _OTHERS_HEAR_SECONDS  # the store may end with this process
        while store.add(_HEARD, 0) < ranks.world_size - 1 and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        raise
    store.set(_VERDICT, "")
