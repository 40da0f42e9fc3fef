"""Builds that choose by similarity to targets, compared with gzip on the documents themselves."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_text import hashes, make_config, make_text, write_jsonl

from data.config import DataConfig
from data.pipeline.build import build
from data.pipeline.steps.hashing import is_held_out, text_hash

CODE = [f"def f{seed}(x):\n    return {make_text(seed, 30)!r} + x * {seed}\n" * 2 for seed in range(60)]
TEXTS = [make_text(seed, words=60) for seed in range(240)] + CODE[:50]
TARGETS = CODE[50:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "made.jsonl", TEXTS)
    return tmp_path


def config(folder: Path, shards: str, workers: int = 2, **selector: Any) -> DataConfig:
    select = {
        "selector": {"name": "zipfit", "min_bytes": 100, **selector},
        "target": {"documents": TARGETS},
        "choose": "documents",
        "amount": 30,
        "drop_near_held_out": False,
    }
    return make_config(folder, shards, workers=workers, deduplicate={"minhash": False}, select=select)


def hashes_to_train_on(shards: Path) -> set[int]:
    files = sorted((shards / "made" / "train").glob("*.ds.hashes"))
    return {hash_ for file in files for hash_ in np.fromfile(file, dtype="<u8").tolist()}


def hashes_of(texts: list[str]) -> set[int]:
    return {text_hash(text.encode()) for text in texts}


def gzip_score(document: str) -> float:
    def size(text: str) -> int:
        return len(gzip.compress(text.encode(), 6))

    own = size(document)
    distances = [(size(document + y) - min(own, size(y))) / max(own, size(y)) for y in TARGETS]
    return 1 - sum(distances) / len(distances)


def test_the_documents_most_like_the_targets_are_chosen(folder: Path) -> None:
    build(config(folder, "exact"))
    pool = [text for text in TEXTS if not is_held_out(text_hash(text.encode()), 0.1)]
    assert hashes_to_train_on(folder / "exact") == hashes_of(sorted(pool, key=gzip_score, reverse=True)[:30])


@pytest.mark.slow
def test_the_prefilter_gives_the_same_bytes_with_any_number_of_workers(folder: Path) -> None:
    keys = {"mode": "prefilter", "top_share": 0.2}
    build(config(folder, "one", workers=1, **keys))
    build(config(folder, "two", workers=2, **keys))
    build(config(folder, "exact"))
    assert hashes(folder / "one") == hashes(folder / "two")
    assert len(hashes_to_train_on(folder / "one") & hashes_to_train_on(folder / "exact")) >= 28
