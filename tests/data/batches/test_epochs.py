"""The number of times that a run reads its sources, against the samples that the loader really takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_shards import documents, write_source

from data.batches.epochs import epochs_by_source
from data.batches.loader import Loader
from data.config import DataConfig
from data.shards.index import open_shards

SEQ_LENGTH, ROWS, STEPS = 16, 8, 40


@pytest.mark.parametrize(
    "mixture",
    [
        {},
        {"mixture": {"alpha": 0.7, "beta": 0.3}},
        {"mixture": {"alpha": 0.7, "beta": 0.3}, "stages": [{"from_step": 10, "mixture": {"beta": 1.0}}]},
        {"mixture": {"alpha": 1.0}, "stages": [{"from_step": 500, "mixture": {"beta": 1.0}}]},
    ],
)
def test_epochs_are_those_of_the_loaders_samples(tmp_path: Path, mixture: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    for name, tokens in (("alpha", 2000), ("beta", 900)):
        write_source(tmp_path, name, train=[documents(rng, tokens=tokens, vocab_size=256, longest=12)], vocab_size=256)
    config = DataConfig.model_validate({"shards": str(tmp_path), **mixture})
    found = epochs_by_source(config, open_shards(config), seq_length=SEQ_LENGTH, rows_per_step_global=ROWS, steps=STEPS)
    with Loader(config, seed=5, seq_length=SEQ_LENGTH, rows_per_step_global=ROWS) as loader:
        sources = np.concatenate([loader.sample_numbers(step)[0] for step in range(STEPS)])
        sequences = {
            name: (loader.shards.split(name, "train").tokens - 1) // SEQ_LENGTH for name in loader.shards.names
        }
        read = {name: int((sources == number).sum()) for number, name in enumerate(loader.shards.names)}
    assert set(found) == {name for name, rows in read.items() if rows}
    for name, epochs in found.items():
        assert epochs * sequences[name] == pytest.approx(read[name], abs=1.0)  # the mixture is exact to a row
