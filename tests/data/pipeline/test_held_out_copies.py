"""A text that one source holds out is in no other source's training, whatever the fractions and the deduplication."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_text import hashes, make_config, make_text, write_jsonl

from data.pipeline.build import BuildResult, build
from data.pipeline.steps.hashing import is_held_out, text_hash
from data.pipeline.steps.held_out_copies import copies_of_held_out
from data.shards.dataset_json import Split, read_dataset
from data.tokenizer import load_tokenizer

SHARED = [make_text(seed) for seed in range(200)]
A_ALONE = [make_text(seed) for seed in range(1000, 1100)]
B_ALONE = [make_text(seed) for seed in range(2000, 2100)]
HELD_OUT = {text for text in [*SHARED, *A_ALONE] if is_held_out(text_hash(text.encode()), 0.1)}


def build_two(folder: Path, shards: str, order: str = "ab", shared: Sequence[str] = SHARED, **more: Any) -> BuildResult:
    """Build a source `a`, of which a tenth is held out, and `b`, which trains on all; they share half of the texts."""
    write_jsonl(folder / "a.jsonl", [*shared, *A_ALONE])
    write_jsonl(folder / "b.jsonl", [*B_ALONE, *shared])
    fractions = {"a": 0.1, "b": 0.0}
    sources = {
        name: {"name": "jsonl", "paths": [str(folder / f"{name}.jsonl")], "held_out_fraction": fractions[name]}
        for name in order
    }
    return build(make_config(folder, shards, sources=sources, **more))


def texts(shards: Path, source: str, split: Split) -> list[str]:
    info = read_dataset(shards / source)
    tokenizer = load_tokenizer(shards / info.tokenizer.path)
    found = []
    for file in info.splits[split].files:
        tokens = np.fromfile(shards / source / file.path, dtype="<u2")
        ends = np.fromfile(shards / source / f"{file.path}.index", dtype="<u8").astype(int)
        found += [tokenizer.decode(part[:-1].tolist()) for part in np.split(tokens, ends[:-1])]
    return found


def test_copies_are_found_among_the_hashes_of_all_tasks() -> None:
    unit = 1 << 60  # a sixteenth of the range
    tasks = [[1 * unit, 3 * unit, 9 * unit], [3 * unit, 1 * unit, 2 * unit], [9 * unit, 3 * unit]]
    found = copies_of_held_out([np.array(task, dtype=np.uint64) for task in tasks], [0.25, 0.0, 0.125])
    assert [own.tolist() for own in found] == [[], [0, 1], [1]]
    assert all(not own.size for own in copies_of_held_out([np.array([3 * unit], dtype=np.uint64)] * 2, [0.1, 0.1]))
    last = np.array([2**64 - 1, 5], dtype=np.uint64)
    assert [own.tolist() for own in copies_of_held_out([last, last], [1.0, 0.0])] == [[], [0, 1]]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize(
    "deduplicate",
    [{"exact": False}, {"exact": True}, {"exact": False, "minhash": True}, {"exact": True, "minhash": True}],
    ids=["none", "exact", "near", "both"],
)
def test_held_out_texts_are_in_no_training(folder: Path, deduplicate: dict[str, bool], order: str) -> None:
    result = build_two(folder, "shards", order, deduplicate=deduplicate)
    shards = folder / "shards"
    assert 10 < len(HELD_OUT) < 60
    assert sorted(texts(shards, "a", "held_out")) == sorted(HELD_OUT)
    trained = texts(shards, "a", "train") + texts(shards, "b", "train")
    assert not HELD_OUT.intersection(trained)
    assert set(trained) == {*SHARED, *A_ALONE, *B_ALONE} - HELD_OUT  # and nothing else is missing
    assert result.sources["b"].duplicates["held_out_elsewhere"] == len(HELD_OUT.intersection(SHARED))
    assert result.sources["a"].duplicates["held_out_elsewhere"] == 0
    if deduplicate == {"exact": False}:
        assert len(trained) == 2 * len(SHARED) + len(A_ALONE) + len(B_ALONE) - len(HELD_OUT) - len(
            HELD_OUT.intersection(SHARED)
        )


@pytest.mark.slow
def test_workers_and_tasks_do_not_matter_and_no_tokenizer_sees_a_held_out_text(folder: Path) -> None:
    mark = "Zyxwvutsrq"
    held_out = next(text for number in range(500) if is_held_out(text_hash((text := f"{mark} {number}").encode()), 0.1))
    for shards, workers in (("one", 1), ("two", 2)):
        build_two(
            folder,
            shards,
            shared=[*SHARED, held_out],
            deduplicate={"exact": False},
            workers=workers,
            tokenizer={"vocab_size": 500},
        )
    assert hashes(folder / "one") == hashes(folder / "two")
    assert mark[:4] not in (folder / "one/tokenizer.json").read_text()


@pytest.mark.slow
def test_one_fraction_needs_no_comparison(folder: Path) -> None:
    """The same hash decides for all sources, so equal texts are in the same split."""
    write_jsonl(folder / "a.jsonl", SHARED)
    sources = {name: {"name": "jsonl", "paths": [str(folder / "a.jsonl")]} for name in "ab"}
    result = build(make_config(folder, sources=sources, deduplicate={"exact": False}))
    assert result.sources["b"].duplicates == {}
    assert sorted(texts(folder / "shards", "a", "train")) == sorted(texts(folder / "shards", "b", "train"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
