"""Megatron-core's datasets read the same shards to the same sequences, and blend in the same proportions.

Megatron's `.bin` is the same bytes as a `.ds`, so a link and an index beside it make shards readable to it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from made_shards import documents, write_source

from data.batches.loader import Loader
from data.batches.mixture import Mixture, MixtureStage
from data.config import DataConfig

# Its import and what it touches in torch warn of their own deprecations.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Tokenizer:
    """The attributes of a tokenizer that GPTDataset reads; tokens have 16 bits."""

    vocab_size, eod, pad, bos = 1000, 0, 999_999, None
    unique_identifiers: ClassVar[dict[str, str]] = {}


def dataset(prefixes: list[Path], weights: list[float] | None, samples: int | None, length: int) -> Any:
    """Build Megatron's training dataset of a blend; if `samples` is None, one epoch of a single source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
        from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    config = GPTDatasetConfig(
        random_seed=1,
        sequence_length=length,
        blend=([str(prefix) for prefix in prefixes], weights),
        split="1,0,0",
        tokenizer=Tokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    sizes = [samples, 0 if samples else None, 0 if samples else None]
    return BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()[0]


def as_megatron(source: Path, document_ends: np.ndarray | None = None) -> Path:
    """Link the source's only shard as `.bin`, write its `.idx`, and return the path without these endings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.core.datasets.indexed_dataset import _IndexWriter

    shard = source / "train/00000.ds"
    prefix = source / "megatron"
    prefix.with_suffix(".bin").symlink_to(shard)
    ends = np.fromfile(f"{shard}.index", np.uint64) if document_ends is None else document_ends
    with _IndexWriter(str(prefix.with_suffix(".idx")), np.uint16) as writer:
        writer.write(np.diff(ends, prepend=0).astype(np.int32).tolist(), None, list(range(len(ends) + 1)))
    return prefix


def test_an_epoch_has_the_same_rows(tmp_path: Path) -> None:
    """Megatron shuffles documents before it divides them, so only of a single document its sequences equal lehr's."""
    rng = np.random.default_rng(0)
    write_source(tmp_path, "a", train=[documents(rng, tokens=5000)])
    megatron_rows = dataset([as_megatron(tmp_path / "a", np.array([5000]))], None, None, 32)
    sequences = 4999 // 32
    assert len(megatron_rows) == sequences
    with Loader(DataConfig(shards=tmp_path), seed=0, seq_length=32, rows_per_step_global=sequences) as loader:
        rows = loader.batch(0)
    lehr_rows = sorted(zip(rows.tokens.tolist(), rows.targets.tolist(), strict=True))
    assert lehr_rows == sorted(
        (megatron_rows[i]["tokens"].tolist(), megatron_rows[i]["labels"].tolist()) for i in range(sequences)
    )


@pytest.mark.parametrize("weights", [(7, 3), (61, 22, 9, 5, 3)])
def test_blends_have_the_same_proportions(tmp_path: Path, weights: tuple[int, ...]) -> None:
    """After every row, both counts are within a row of the weights (Megatron's by its greedy rule, as measured)."""
    rng = np.random.default_rng(0)
    names = [f"s{number}" for number in range(len(weights))]
    for name in names:
        write_source(tmp_path, name, train=[documents(rng, tokens=3000)])
    rows = 2000
    blend = dataset([as_megatron(tmp_path / name) for name in names], [float(w) for w in weights], rows, 32)
    config = DataConfig(shards=tmp_path, mixture=dict(zip(names, weights, strict=True)))
    with Loader(config, seed=0, seq_length=32, rows_per_step_global=rows) as loader:
        sources, _ = loader.sample_numbers(0)
    megatron_rows = np.array([int(blend[row]["dataset_id"]) for row in range(rows)])
    each = np.arange(len(weights))
    expected = np.arange(1, rows + 1)[:, None] * np.array(weights) / sum(weights)
    counts, megatron_counts = (np.cumsum(numbers[:, None] == each, axis=0) for numbers in (sources, megatron_rows))
    assert np.abs(counts - expected).max() < 1
    assert np.abs(megatron_counts - expected).max() < 1.5
    assert np.array_equal(counts[-1], megatron_counts[-1])


def test_a_long_blend_has_the_same_counts(tmp_path: Path) -> None:
    """Megatron lists a blend's rows for a whole run; lehr looks rows up, and agrees at the end of each period."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.core.datasets import helpers_cpp

    weights, rows = (611, 217, 92, 53, 20, 7), 300_000
    megatron_rows = np.zeros(rows, dtype=np.int16)
    megatron_samples = np.zeros(rows, dtype=np.int64)
    helpers_cpp.build_blending_indices(megatron_rows, megatron_samples, np.array(weights) / 1000, 6, rows, False)
    lehr_rows, lehr_samples = Mixture([MixtureStage(0, weights)]).rows(0, rows)
    counts, megatron_counts = (
        np.cumsum(numbers[:, None] == np.arange(6), axis=0) for numbers in (lehr_rows, megatron_rows)
    )
    assert np.abs(counts - megatron_counts).max() <= 2
    assert np.array_equal(counts[999::1000], megatron_counts[999::1000])
    assert [lehr_samples[lehr_rows == s].max() for s in range(6)] == [
        megatron_samples[megatron_rows == s].max() for s in range(6)
    ]
