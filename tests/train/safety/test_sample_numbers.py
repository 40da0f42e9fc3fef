"""The samples of a step by source, and their text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from made_shards import documents, write_source

from data.batches.loader import Loader
from data.config import DataConfig
from train.safety.sample_numbers import format_samples, sample_numbers


def test_sample_numbers_are_those_of_the_batch_by_source(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for name in ("alpha", "beta"):
        write_source(tmp_path, name, train=[documents(rng, tokens=2000, vocab_size=256, longest=12)], vocab_size=256)
    config = DataConfig.model_validate({"shards": str(tmp_path), "mixture": {"alpha": 0.7, "beta": 0.3}})
    with Loader(config, seed=5, seq_length=16, rows_per_step_global=8) as loader:
        samples = sample_numbers(loader, 2)
        rows = loader.batch(2)
    assert set(samples) == {"alpha", "beta"}
    assert sorted(samples["alpha"] + samples["beta"]) == sorted(rows.samples.tolist())
    for number, name in enumerate(("alpha", "beta")):
        assert samples[name] == rows.samples[rows.sources == number].tolist()


def test_the_text_has_the_first_few_of_each_source() -> None:
    assert format_samples({"python": [4, 8, 15], "wiki": [3]}) == "python 4 8 15, wiki 3"
    assert format_samples({"python": list(range(9))}) == "python 0 1 2 3 4 5 and 3 more"
