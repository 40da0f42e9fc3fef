"""The hashing of a run's shards by one process: before lehr starts the ranks, or by rank 0 of torchrun or srun."""

from __future__ import annotations

import time

import torch.distributed as dist

from data.shards.verify import verify_shards
from launcher.processes.rank_info import RankInfo
from launcher.run.config import RunConfig
from settings import UserError
from train.run_folder.folder import RunFolder

_POLL_SECONDS = 0.1
_DELIVERY_SECONDS = 5.0  # for the other ranks to receive rank 0's error
_RESULT, _RECEIVED = "shards/result", "shards/received"


def verify_run_shards(config: RunConfig) -> None:
    """Hashes the shards of a run, and records the verified ones in the run folder. Raises UserError."""
    verify_shards(config.data, RunFolder(config.run.path).verified_shards)


def verify_on_rank_0(config: RunConfig, rank_info: RankInfo, store: dist.Store) -> None:  # type: ignore[name-defined]
    """Returns, or raises UserError, on all ranks once rank 0 has hashed the shards. No timeout applies to it."""
    if rank_info.rank > 0:
        while not store.check([_RESULT]):
            time.sleep(_POLL_SECONDS)
        message = store.get(_RESULT).decode()
        store.add(_RECEIVED, 1)
        if message:
            raise UserError(message)
        return
    try:
        verify_run_shards(config)
    except UserError as error:
        store.set(_RESULT, str(error))
        deadline = time.monotonic() + _DELIVERY_SECONDS  # the store may end with this process
        while store.add(_RECEIVED, 0) < rank_info.world_size - 1 and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        raise
    store.set(_RESULT, "")
