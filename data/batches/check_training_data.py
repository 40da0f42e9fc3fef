"""The checks of a run's shards before any process starts."""

from __future__ import annotations

from data.batches.build_plan import build_plan, check_seq_length
from data.config import DataConfig
from data.shards.index import Shards, open_shards


def check_training_data(config: DataConfig, seq_length: int, *, seed: int = 0, rows_per_step_global: int = 1) -> Shards:
    """Open the shards of `config` and check everything about them that does not take reading every byte.

    Raises UserError for missing folders, sources and files, unknown sources in a mixture, files of another size than
    recorded, an index that does not belong to its shard, an altered tokenizer, a source of a mixture that is shorter
    than a row, and replay that the shards or the data seen before do not allow. data/shards/verify.py compares
    the bytes.
    """
    shards = open_shards(config)
    check_seq_length(config, shards, seq_length)
    build_plan(config, shards, seed=seed, seq_length=seq_length, rows_per_step_global=rows_per_step_global)
    for name, dataset in shards.datasets.items():
        for split in dataset.splits:
            shards.stream(name, split).check()
    shards.tokenizer_file()
    return shards
