"""The hashing of a run's shards by one process: before lehr starts the ranks, or by rank 0 of torchrun or srun."""

from __future__ import annotations

from data.shards.verify import verify_shards
from launcher.run.config import RunConfig
from train.run_folder.folder import RunFolder


def verify_run_shards(config: RunConfig) -> None:
    """Hashes the shards of a run, and records the verified ones in the run folder. Raises UserError."""
    verify_shards(config.data, RunFolder(config.run.path).verified_shards)
