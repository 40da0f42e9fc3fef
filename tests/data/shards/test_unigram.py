"""The unigram loss equals its closed form on counts known by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_shards import write_source

from data.config import DataConfig
from data.shards.index import open_shards
from data.shards.unigram import unigram_loss


def test_training_counts_give_the_held_out_loss(tmp_path: Path) -> None:
    write_source(tmp_path / "s", "one", train=[[[1, 1, 2, 0]], [[1, 0]]], held_out=[[[1, 2, 3, 0]]], vocab_size=10)
    shards = open_shards(DataConfig.model_validate({"shards": str(tmp_path / "s")}))
    counts = {0: 3, 1: 4, 2: 2, 3: 1}  # each once more than it occurs; 6 tokens and 10 entries: 16 in all
    wanted = -sum(math.log(counts[token] / 16) for token in (1, 2, 3, 0)) / 4
    assert unigram_loss(shards, "one") == pytest.approx(wanted, rel=1e-12)
