"""Counts how often a run reads its sources: the rows that the mixture gives to each, over those that it has."""

from __future__ import annotations

from data.batches.batch import num_sequences
from data.batches.build_mixture import build_mixture
from data.config import DataConfig
from data.shards.index import Shards


def epochs_by_source(
    config: DataConfig, shards: Shards, *, seq_length: int, rows_per_step_global: int, steps: int
) -> dict[str, float]:
    """Returns how many times the first `steps` steps read the training split of each source that they draw from."""
    mixture = build_mixture(config, shards, split="train", rows_per_step_global=rows_per_step_global)
    rows = mixture.expected_rows(steps * rows_per_step_global)
    return {
        name: rows_of_source / num_sequences(shards.split(name, "train").tokens, seq_length)
        for name, rows_of_source in zip(shards.names, rows, strict=True)
        if rows_of_source
    }
