"""The number of times that a run reads its sources, against the samples that the loader really takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_shards import documents, write_source

from data.batches.build_plan import build_plan
from data.batches.epochs import epochs_by_source
from data.batches.loader import Loader
from data.batches.training_data import DataStage, Replay, with_stages
from data.config import DataConfig
from data.shards.index import open_shards

SEQ_LENGTH, ROWS, STEPS = 16, 8, 40
BOTH = {"alpha": 0.7, "beta": 0.3}


@pytest.mark.parametrize(
    "stages",
    [
        {0: {}},
        {0: BOTH},
        {0: BOTH, 10: {"beta": 1.0}},
        {0: {"alpha": 1.0}, 500: {"beta": 1.0}},
    ],
)
def test_epochs_are_those_of_the_loaders_samples(tmp_path: Path, stages: dict[int, dict[str, float]]) -> None:
    config = make_config(tmp_path, [DataStage(f"stages.{step}", step, mixture) for step, mixture in stages.items()])
    common = {"seed": 5, "seq_length": SEQ_LENGTH, "rows_per_step_global": ROWS}
    found = epochs_by_source(build_plan(config, open_shards(config), **common), steps=STEPS)
    with Loader(config, **common) as loader:
        sources = np.concatenate([loader.sample_numbers(step)[0] for step in range(STEPS)])
        sequences = {
            name: (loader.shards.split(name, "train").tokens - 1) // SEQ_LENGTH for name in loader.shards.names
        }
        read = {name: int((sources == number).sum()) for number, name in enumerate(loader.shards.names)}
    assert set(found) == {name for name, rows in read.items() if rows}
    for name, epochs in found.items():
        assert epochs * sequences[name] == pytest.approx(read[name], abs=1.0)  # the mixture is exact to a row


def test_a_pool_of_old_data_counts_by_itself(tmp_path: Path) -> None:
    """4 steps of 8 rows make a pool of 32 rows, of which the other 36 steps read half of 8 each."""
    replay = Replay("stages.1.replay", 0.5, {}, "seen", None)
    stages = [DataStage("stages.0.mixture", 0, {"alpha": 1.0}), DataStage("stages.1.mixture", 4, {"beta": 1.0}, replay)]
    config = make_config(tmp_path, stages)
    plan = build_plan(config, open_shards(config), seed=5, seq_length=SEQ_LENGTH, rows_per_step_global=ROWS)
    assert epochs_by_source(plan, steps=STEPS)["alpha (replay, seen)"] == 36 * 4 / 32


def make_config(folder: Path, stages: list[DataStage]) -> DataConfig:
    rng = np.random.default_rng(3)
    for name, tokens in (("alpha", 2000), ("beta", 900)):
        write_source(folder, name, train=[documents(rng, tokens=tokens, vocab_size=256, longest=12)], vocab_size=256)
    return with_stages(DataConfig(shards=folder), stages)
