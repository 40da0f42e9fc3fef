"""Builds that select: what is chosen, compared with choosing from the documents themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_text import hashes, make_config, make_text, write_jsonl

from data.config import DataConfig
from data.pipeline.build import build
from data.pipeline.steps.hashing import is_held_out, text_hash
from data.selectors.blocks.seeded_uniform import seeded_uniform
from data.shards.dataset_json import read_dataset
from data.tokenizer import load_tokenizer

TEXTS = {"made": [make_text(seed, words=40 + seed % 50) for seed in range(300)]}
TEXTS["other"] = [make_text(1000 + seed, words=80) for seed in range(120)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, texts in TEXTS.items():
        write_jsonl(tmp_path / f"{name}.jsonl", texts)
    return tmp_path


def config(folder: Path, shards: str, select: dict[str, Any] | None, **more: Any) -> DataConfig:
    sources = {name: {"name": "jsonl", "paths": [str(folder / f"{name}.jsonl")]} for name in TEXTS}
    return make_config(folder, shards, sources=sources, deduplicate={"minhash": False}, select=select, **more)


def documents(shards: Path, source: str, split: str) -> set[str]:
    """Decode the documents of a split."""
    info = read_dataset(shards / source)
    tokenizer = load_tokenizer(shards / info.tokenizer.path)
    found: set[str] = set()
    for file in info.splits[split].files:  # type: ignore[index]
        tokens = np.fromfile(shards / source / file.path, dtype="<u2")
        ends = np.fromfile(shards / source / f"{file.path}.index", dtype="<u8").astype(int)
        found |= {tokenizer.decode(document[:-1].tolist()) for document in np.split(tokens, ends[:-1])}
    return found


def random_order(texts: list[str], seed: int) -> list[str]:
    """The documents to train on, the highest random number first."""
    pool = [text for text in texts if not is_held_out(text_hash(text.encode()), 0.1)]
    numbers = seeded_uniform(np.array([text_hash(text.encode()) for text in pool], dtype=np.uint64), seed)
    return [pool[place] for place in np.argsort(-numbers)]


def test_the_best_documents_are_chosen_and_the_held_out_split_and_the_tokenizer_stay(folder: Path) -> None:
    build(config(folder, "all", None))
    select = {"selector": {"name": "random", "seed": 3}, "choose": "documents", "amount": 50, "skip": 0.1}
    result = build(config(folder, "chosen", select))
    order = random_order(TEXTS["made"] + TEXTS["other"], 3)
    skipped = int(0.1 * len(order))
    chosen = documents(folder / "chosen", "made", "train") | documents(folder / "chosen", "other", "train")
    assert chosen == set(order[skipped : skipped + 50])
    for source in TEXTS:
        assert documents(folder / "chosen", source, "held_out") == documents(folder / "all", source, "held_out")
    assert hashes(folder / "chosen")["tokenizer.json"] == hashes(folder / "all")["tokenizer.json"]
    not_chosen = sum(report.not_selected["not_chosen"] for report in result.sources.values())
    assert not_chosen == len(order) - 50
    assert "not selected (not_chosen" in result.sources["made"].line("made")
