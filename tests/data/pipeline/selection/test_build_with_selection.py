"""Builds that select: what is chosen, compared with choosing from the documents themselves."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_text import config_file, hashes, make_config, make_text, write_jsonl
from processes import lehr, start_lehr

from data.config import DataConfig
from data.pipeline.build import build
from data.pipeline.steps.hashing import is_held_out, text_hash
from data.selectors.blocks.seeded_uniform import seeded_uniform
from data.shards.dataset_json import read_dataset
from data.shards.inspect import inspect
from data.tokenizer import load_tokenizer
from settings import UserError

TEXTS = {"made": [make_text(seed, words=40 + seed % 50) for seed in range(300)]}
TEXTS["other"] = [make_text(1000 + seed, words=80) for seed in range(120)]
PLANTED = [f"lemma {seed}: every prime {make_text(seed, words=10)} divides the sum of squares" for seed in range(12)]
TARGETS = [f"theorem {seed}: no prime {make_text(seed + 90, words=8)} divides a sum of squares" for seed in range(8)]


pytestmark = pytest.mark.slow  # each builds shards several times


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of two sources, in one of which are some of the targets' kind; a tokenizer; and shards of all documents."""
    path = tmp_path_factory.mktemp("selection")
    write_jsonl(path / "made.jsonl", TEXTS["made"])
    write_jsonl(path / "other.jsonl", [*TEXTS["other"], *PLANTED])
    build(config(path, "all", None, tokenizer={"vocab_size": 300}))
    return path


def config(folder: Path, shards: str, select: dict[str, Any] | None, **more: Any) -> DataConfig:
    sources = {name: {"name": "jsonl", "paths": [str(folder / f"{name}.jsonl")]} for name in TEXTS}
    plain = {"sources": sources, "deduplicate": {"minhash": False}, "select": select, "task_bytes": 30_000, **more}
    return make_config(folder, shards, **{"tokenizer": {"path": str(folder / "all" / "tokenizer.json")}, **plain})


def documents(shards: Path, source: str, split: str) -> list[str]:
    """Decode the documents of a split."""
    info = read_dataset(shards / source)
    tokenizer = load_tokenizer(shards / info.tokenizer.path)
    found: list[str] = []
    for file in info.splits[split].files:  # type: ignore[index]
        tokens = np.fromfile(shards / source / file.path, dtype="<u2")
        ends = np.fromfile(shards / source / f"{file.path}.index", dtype="<u8").astype(int)
        found += [tokenizer.decode(document[:-1].tolist()) for document in np.split(tokens, ends[:-1])]
    return found


def trained_on(shards: Path) -> list[str]:
    return [text for source in TEXTS if (shards / source).exists() for text in documents(shards, source, "train")]


def random_order(texts: list[str], seed: int) -> list[str]:
    """Return documents, the highest random number first."""
    hashes_of_texts = np.array([text_hash(text.encode()) for text in texts], dtype=np.uint64)
    return [texts[place] for place in np.argsort(-seeded_uniform(hashes_of_texts, seed))]


def test_a_band_is_chosen_and_the_held_out_split_and_the_tokenizer_stay(folder: Path) -> None:
    select = {"selector": {"name": "random", "seed": 3}, "choose": "documents", "amount": 50, "skip": 0.1}
    result = build(config(folder, "band", select, tokenizer={"vocab_size": 300}))
    order = random_order(trained_on(folder / "all"), 3)
    skipped = int(0.1 * len(order))
    assert set(trained_on(folder / "band")) == set(order[skipped : skipped + 50])
    report = record(folder / "band")
    for source in TEXTS:
        train = read_dataset(folder / "band" / source).splits["train"]
        amount = {"documents": train.documents, "bytes": train.text_bytes, "tokens": train.tokens}
        assert report["sources"][source]["chosen"] == amount
        own = set(documents(folder / "all", source, "train"))
        ranked = [text_hash(text.encode()) for text in order if text in own]
        chosen = [text_hash(text.encode()) for text in order[skipped : skipped + 50] if text in own]
        behind = ranked[ranked.index(chosen[-1]) + 1 :]
        wanted = {"highest": ranked[:10], "lowest": ranked[::-1][:10], "last_chosen": chosen[::-1][:5]}
        for kind, expected in {**wanted, "first_not_chosen": behind[:5]}.items():
            assert [example["hash"] for example in report["sources"][source]["examples"][kind]] == expected, kind
        held_out = [sorted(documents(folder / shards, source, "held_out")) for shards in ("band", "all")]
        assert held_out[0] == held_out[1]
    assert hashes(folder / "band")["tokenizer.json"] == hashes(folder / "all")["tokenizer.json"]
    not_chosen = sum(report.not_selected["not_chosen"] for report in result.sources.values())
    assert not_chosen == len(order) - 50
    assert "not selected (not_chosen" in result.sources["made"].line("made")


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"selector": "random", "choose": "threshold", "threshold": 5}, "data.select chooses none of [0-9]+ documents"),
        (
            {"selector": "dsir", "target": {"documents": [" "]}, "choose": "share", "amount": 0.5},
            "data.select.target: no document with text is left",
        ),
    ],
)
def test_a_choice_of_nothing_is_refused(folder: Path, select: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(config(folder, "nothing", select))
    assert not (folder / "nothing").exists()


def test_limits_in_bytes_tokens_and_shares_of_each_source(folder: Path) -> None:
    order = random_order(trained_on(folder / "all"), 0)

    def first(limit: int, size: Callable[[str], int], texts: list[str]) -> set[str]:
        ends = np.cumsum([size(text) for text in texts])
        return set(texts[: int(np.searchsorted(ends, limit, side="right"))])

    build(config(folder, "bytes", {"selector": "random", "choose": "bytes", "amount": 20_000}))
    assert set(trained_on(folder / "bytes")) == first(20_000, lambda text: len(text.encode()), order)
    build(config(folder, "tokens", {"selector": "random", "choose": "tokens", "amount": 9_000}))
    tokenizer = load_tokenizer(folder / "all" / "tokenizer.json")
    assert set(trained_on(folder / "tokens")) == first(9_000, lambda text: len(tokenizer.encode(text).ids) + 1, order)
    select = {"selector": "random", "choose": "share", "amount": 0.3, "per_source": True, "order": "lowest"}
    build(config(folder, "share", select))
    for source in TEXTS:
        own = random_order(documents(folder / "all", source, "train"), 0)[::-1]
        limit = int(0.3 * sum(len(text) for text in own))
        assert set(documents(folder / "share", source, "train")) == first(limit, len, own)
    numbers = {text: place for place, text in enumerate(order)}
    build(config(folder, "drawn", {"selector": "random", "choose": "documents", "amount": 50, "temperature": 1e-6}))
    assert set(trained_on(folder / "drawn")) == set(order[:50])  # a temperature near 0 changes nothing
    build(config(folder, "hot", {"selector": "random", "choose": "documents", "amount": 50, "temperature": 1e6}))
    assert len({numbers[text] for text in trained_on(folder / "hot")} - set(range(50))) > 30  # a high one draws any


@pytest.mark.parametrize("selector", ["dsir", "classifier"])
def test_a_selector_by_similarity_finds_the_planted_documents(folder: Path, selector: str) -> None:
    target = {"documents": TARGETS}
    planted = set(PLANTED) & set(trained_on(folder / "all"))
    select = {"selector": selector, "target": target, "choose": "documents", "amount": len(planted)}
    build(config(folder, selector, select))
    assert set(trained_on(folder / selector)) == planted
    views = {view.name: view for view in inspect(folder / selector, sample_tokens=0)}
    assert [split.documents > 0 for split in views["made"].splits] == [False, True]  # nothing is chosen, but held out
    assert views["other"].selection.startswith(f"{selector}, documents {len(planted)}, {len(TARGETS)} targets: ")


def record(shards: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shards / "selection" / "report.json").read_text())
    return found


def test_controls_choose_as_much_of_each_stratum_and_ranks_are_combined(folder: Path) -> None:
    target, dsir = {"documents": TARGETS}, {"name": "dsir", "buckets": 500}
    limit = {"target": target, "choose": "bytes", "amount": 15_000}
    build(config(folder, "of", {"selector": dsir, **limit}))
    build(config(folder, "sources", {"selector": {"name": "same_sources", "of": dsir}, **limit}))
    build(config(folder, "lengths", {"selector": {"name": "length_matched", "of": dsir}, **limit}))
    of, sources, lengths = (trained_on(folder / name) for name in ("of", "sources", "lengths"))
    assert len(set(of) & set(sources)) < 0.8 * len(of)
    for name in TEXTS:
        wanted = record(folder / "of")["sources"][name]["chosen"]["bytes"]
        assert wanted - 1000 < record(folder / "sources")["sources"][name]["chosen"]["bytes"] <= wanted
    quarter_octaves = [Counter(int(4 * math.log2(len(text))) for text in texts) for texts in (of, lengths)]
    for stratum, count in quarter_octaves[0].items():
        assert abs(quarter_octaves[1][stratum] - count) <= 1 + 0.2 * count
    # Written only, read again and combined: of a selector with itself, the mean rank is its rank.
    build(config(folder, "written", {"selector": dsir, "target": target}))
    assert sorted(trained_on(folder / "written")) == sorted(trained_on(folder / "all"))
    stored = {"name": "scores", "paths": [str(folder / "written" / "selection" / "scores")]}
    combined = {"name": "mean_rank", "of": [stored, dsir]}
    build(config(folder, "combined", {"selector": combined, **limit}))
    assert sorted(trained_on(folder / "combined")) == sorted(of)


def test_targets_and_near_copies_of_held_out_documents_leave_the_pool(folder: Path, tmp_path: Path) -> None:
    held_out = max((text for name in TEXTS for text in documents(folder / "all", name, "held_out")), key=len)
    near, far = f"{held_out} And.", make_text(7777, words=90)
    assert not is_held_out(text_hash(near.encode()), 0.1)
    write_jsonl(tmp_path / "made.jsonl", [*TEXTS["made"], near, TARGETS[0], TARGETS[0]])
    write_jsonl(tmp_path / "other.jsonl", TEXTS["other"])
    write_jsonl(tmp_path / "targets.jsonl", [*TARGETS, f"{held_out} The.", held_out, far])
    tokenizer = {"path": str(folder / "all" / "tokenizer.json")}
    target = {"source": {"name": "jsonl", "paths": [str(tmp_path / "targets.jsonl")]}}
    result = build(config(tmp_path, "own", {"selector": "random", "target": target}, tokenizer=tokenizer))
    left = result.sources["made"].not_selected
    assert (left["near_held_out"], left["target"]) == (1, 1)  # the second copy of the target was a duplicate
    assert not {near, TARGETS[0]} & set(trained_on(tmp_path / "own"))
    info = read_dataset(tmp_path / "own" / "made").selection
    assert info is not None
    assert info.targets == len(TARGETS) + 1
    assert list(info.inputs) == [str(tmp_path / "targets.jsonl")]
    target = {"from_source": "other", "fraction": 1.0}
    result = build(config(tmp_path, "third", {"selector": "random", "target": target}, tokenizer=tokenizer))
    assert result.sources["other"].documents["train"] == 0
    assert result.sources["other"].documents["held_out"] > 0
    record_of_third = record(tmp_path / "third")
    assert record_of_third["targets"] == result.sources["other"].not_selected["target"]


def test_the_same_bytes_with_any_workers_and_after_a_kill(folder: Path) -> None:
    select = {"selector": "dsir", "target": {"documents": TARGETS}, "choose": "share", "amount": 0.2}
    more = {"task_bytes": 20_000, "deduplicate": {"minhash": True}}
    build(config(folder, "one", {**select, "temperature": 1.0}, workers=1, **more))
    build(config(folder, "three", {**select, "temperature": 1.0}, workers=3, **more))
    path = config_file(folder, config(folder, "killed", {**select, "temperature": 1.0}, workers=2, **more))
    process = start_lehr("data", "build", path)
    while not list(folder.glob(".killed.building-*/logs/scores/completions/00000")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (folder / "killed").exists()
    again = lehr("data", "build", path)
    assert again.returncode == 0, again.stderr
    assert "continuing the unfinished build" in again.stderr
    found = [hashes(folder / name) for name in ("one", "three", "killed")]
    assert len([name for name in found[0] if name.startswith("selection")]) > 8
    assert found[0] == found[1] == found[2]
    shown = lehr("data", "inspect", folder / "killed", "--sample-tokens", "0")
    assert "made: selected by dsir, share 0.2, 8 targets: " in shown.stdout
    assert "report.md" in shown.stdout
