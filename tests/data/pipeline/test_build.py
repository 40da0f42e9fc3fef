"""Builds of small texts: equal bytes however they ran, bad documents counted or refused, and nothing half-built."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_text import hashes, write_jsonl
from processes import lehr, start_lehr
from tokenizers import Tokenizer

from data.config import DataConfig
from data.pipeline.build import build
from data.shards.dataset_json import DatasetInfo, read_dataset
from data.shards.index import open_shards
from data.shards.inspect import inspect
from data.shards.verify import hashed_files, verify_files
from data.tokenizer import load_tokenizer
from settings import UserError

WORDS = "the river and that town have been with a long road to say of it stone light water house people".split()  # noqa: SIM905


def text(seed: int, words: int = 120) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words)) + "."


def config(folder: Path, shards: str = "shards", **more: Any) -> DataConfig:
    plain: dict[str, Any] = {
        "shards": str(folder / shards),
        "tokenizer": {"vocab_size": 300},
        "held_out_fraction": 0.1,
        "workers": 1,
        "sources": {"made": {"name": "jsonl", "paths": [str(folder / "made.jsonl")]}},
    }
    return DataConfig.model_validate({**plain, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "made.jsonl", [text(seed) for seed in range(200)])
    return tmp_path


def test_same_bytes_twice_and_with_more_workers(folder: Path) -> None:
    build(config(folder, "one"))
    build(config(folder, "two", workers=2))
    assert hashes(folder / "one") == hashes(folder / "two")


@pytest.mark.slow
def test_a_second_build_finds_the_first_and_another_config_is_refused(folder: Path) -> None:
    assert not build(config(folder)).already_built
    assert build(config(folder)).already_built
    with pytest.raises(UserError, match=r"data\.held_out_fraction: was 0\.1, now 0\.2"):
        build(config(folder, held_out_fraction=0.2))


def test_changed_input_is_refused(folder: Path) -> None:
    build(config(folder))
    write_jsonl(folder / "made.jsonl", [text(seed) for seed in range(201)])
    with pytest.raises(UserError, match="built from other input"):
        build(config(folder))


def test_tokens_are_the_documents(folder: Path) -> None:
    build(config(folder))
    info = read_dataset(folder / "shards" / "made")
    tokenizer = load_tokenizer(folder / "shards" / info.tokenizer.path)
    found = []
    for split in ("train", "held_out"):
        for file in info.splits[split].files:  # type: ignore[index]
            tokens = np.fromfile(folder / "shards" / "made" / file.path, dtype="<u2")
            ends = np.fromfile(folder / "shards" / "made" / f"{file.path}.index", dtype="<u8")
            hashes_of_texts = np.fromfile(folder / "shards" / "made" / f"{file.path}.hashes", dtype="<u8").tolist()
            assert ends[-1] == len(tokens) == file.tokens
            for document, hash_ in zip(np.split(tokens, ends[:-1].astype(int)), hashes_of_texts, strict=True):
                assert document[-1] == info.tokenizer.eos_id
                found.append(tokenizer.decode(document[:-1].tolist()))
                assert hash_ == int.from_bytes(hashlib.sha256(found[-1].encode()).digest()[:8], "big")
    assert sorted(found) == sorted(text(seed) for seed in range(200))


def test_shards_without_hashes_of_documents_have_the_same_digest(folder: Path) -> None:
    """Earlier versions wrote none; a run resumes on either."""
    build(config(folder))
    before = open_shards(config(folder)).digests()
    path = folder / "shards" / "made" / "dataset.json"
    plain = json.loads(path.read_text())
    for split in plain["splits"].values():
        for file in split["files"]:
            (folder / "shards" / "made" / f"{file['path']}.hashes").unlink()
            del file["document_hashes_sha256"]
    path.write_text(json.dumps(plain))
    assert open_shards(config(folder)).digests() == before
    assert {split.status for split in inspect(folder / "shards", sample_tokens=0)[0].splits} == {"ok"}
    assert not verify_files(hashed_files(open_shards(config(folder))), {}, threads=1).problems


def test_the_end_of_text_string_in_a_document_is_text(folder: Path) -> None:
    marked = "a <|endoftext|> b " * 10
    write_jsonl(folder / "made.jsonl", [*(text(seed) for seed in range(50)), marked])
    build(config(folder, held_out_fraction=0.0))
    info = read_dataset(folder / "shards" / "made")
    (file,) = info.splits["train"].files
    tokens = np.fromfile(folder / "shards" / "made" / file.path, dtype="<u2")
    assert int((tokens == info.tokenizer.eos_id).sum()) == info.splits["train"].documents == 51


@pytest.mark.slow
def test_a_large_vocabulary_takes_four_bytes(folder: Path) -> None:
    build(config(folder, "small"))
    tokenizer = Tokenizer.from_file(str(folder / "small" / "tokenizer.json"))
    tokenizer.add_tokens([f"added{number}" for number in range(70_000)])
    tokenizer.save(str(folder / "large.json"))
    build(config(folder, tokenizer={"path": str(folder / "large.json")}))
    info = read_dataset(folder / "shards" / "made")
    assert info.token_bytes == 4
    (view,) = inspect(folder / "shards", sample_tokens=20)
    assert view.sample
    assert {split.status for split in view.splits} == {"ok"}
    small = read_dataset(folder / "small" / "made")
    assert info.splits["train"].tokens == small.splits["train"].tokens


BAD = {
    "broken json": b'{"text": "half\n',
    "missing field": b'{"words": "none"}\n',
    "invalid utf-8": b'{"text": "\xff\xfe broken"}\n',
    "empty": b'{"text": ""}\n',
    "too long": json.dumps({"text": "long " * 2000}).encode() + b"\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD)
def test_bad_documents_are_counted_or_refused(folder: Path, kind: str) -> None:
    with (folder / "made.jsonl").open("ab") as file:
        file.write(BAD[kind])
    result = build(config(folder, max_document_bytes=5000))
    assert sum(result.sources["made"].bad.values()) == 1
    assert sum(result.sources["made"].documents.values()) == 200
    with pytest.raises(UserError, match=r"made\.jsonl"):
        build(config(folder, "strict", max_document_bytes=5000, on_bad_document="fail"))
    assert not (folder / "strict").exists()


def test_a_missing_file_and_an_empty_source(folder: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.jsonl"):
        build(config(folder, sources={"made": {"name": "jsonl", "paths": [str(folder / "nothing.jsonl")]}}))
    (folder / "made.jsonl").write_text("")
    with pytest.raises(UserError):
        build(config(folder))
    assert not (folder / "shards").exists()


@pytest.mark.slow
def test_an_empty_source_beside_a_full_one(folder: Path) -> None:
    (folder / "none.jsonl").write_text('{"text": ""}\n')
    sources = {name: {"name": "jsonl", "paths": [str(folder / f"{name}.jsonl")]} for name in ("made", "none")}
    result = build(config(folder, sources=sources))
    assert sum(result.sources["none"].documents.values()) == 0
    assert sum(result.sources["made"].documents.values()) == 200


@pytest.mark.slow
def test_duplicates_are_dropped_once(folder: Path) -> None:
    near = text(1).replace("river", "rivers")
    write_jsonl(folder / "made.jsonl", [*(text(seed) for seed in range(50)), text(7), near])
    exact = build(config(folder, "exact", deduplicate={"exact": True}))
    assert sum(exact.sources["made"].documents.values()) == 51
    assert exact.sources["made"].duplicates == {"exact": 1, "near": 0}
    none = build(config(folder, "none", deduplicate={"exact": False}))
    assert sum(none.sources["made"].documents.values()) == 52


def test_minhash_drops_a_near_duplicate(folder: Path) -> None:
    long_text = text(1, words=2000)
    near = long_text.replace("river", "rivers", 3)
    write_jsonl(folder / "made.jsonl", [*(text(seed) for seed in range(2, 40)), long_text, near])
    result = build(config(folder, deduplicate={"minhash": True}))
    assert result.sources["made"].duplicates == {"exact": 0, "near": 1}


def test_the_held_out_documents_stay_when_a_source_grows(folder: Path) -> None:
    def held_out(shards: str) -> set[str]:
        build(config(folder, shards, shuffle_documents=False))
        info = read_dataset(folder / shards / "made")
        tokenizer = load_tokenizer(folder / shards / info.tokenizer.path)
        texts = set()
        for file in info.splits["held_out"].files:
            tokens = np.fromfile(folder / shards / "made" / file.path, dtype="<u2")
            ends = np.fromfile(folder / shards / "made" / f"{file.path}.index", dtype="<u8").astype(int)
            texts |= {tokenizer.decode(part[:-1].tolist()) for part in np.split(tokens, ends[:-1])}
        return texts

    before = held_out("before")
    write_jsonl(folder / "made.jsonl", [text(seed) for seed in range(300)])
    after = held_out("after")
    assert before
    assert before == {each for each in after if each in {text(seed) for seed in range(200)}}


@pytest.mark.slow
def test_a_source_with_a_held_out_fraction_of_its_own(folder: Path) -> None:
    """The same rule holds out its documents, so those of the smaller fraction are among those of the larger."""

    def held_out(shards: str, **own: float) -> tuple[DatasetInfo, DatasetInfo]:
        write_jsonl(folder / "other.jsonl", [text(seed) for seed in range(1000, 1200)])
        sources = {
            name: {"name": "jsonl", "paths": [str(folder / f"{name}.jsonl")], **more}
            for name, more in (("made", {}), ("other", own))
        }
        build(config(folder, shards, sources=sources))
        return read_dataset(folder / shards / "made"), read_dataset(folder / shards / "other")

    made_before, other_before = held_out("before")
    made_after, other_after = held_out("after", held_out_fraction=0.4)
    assert made_after.splits["held_out"].documents == made_before.splits["held_out"].documents
    assert 0 < other_before.splits["held_out"].documents < 0.2 * 200
    assert 0.3 * 200 < other_after.splits["held_out"].documents < 0.5 * 200
    for split in (other_before, other_after):
        assert sum(part.documents for part in split.splits.values()) == 200
    _, evaluated = held_out("evaluated", held_out_fraction=1)
    assert evaluated.splits["held_out"].documents == 200
    assert evaluated.splits["train"].documents == 0


@pytest.mark.slow
def test_compressed_lines_and_folders_of_text(folder: Path) -> None:
    with gzip.open(folder / "made.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text(seed)}) + "\n" for seed in range(200))
    texts = folder / "texts"
    texts.mkdir()
    for seed in range(200):
        (texts / f"{seed}.txt").write_text(text(seed))
    sources = {
        "zipped": {"name": "jsonl", "paths": [str(folder / "made.jsonl.gz")]},
        "files": {"name": "text", "paths": [str(texts)]},
    }
    result = build(config(folder, sources=sources, deduplicate={"exact": False}))
    for name in sources:
        assert sum(result.sources[name].documents.values()) == 200


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_bytes(folder: Path) -> None:
    write_jsonl(folder / "made.jsonl", [text(seed, words=400) for seed in range(3000)])
    plain = config(folder, task_bytes=1024 * 1024).to_plain()
    file = folder / "config.yaml"
    file.write_text(json.dumps({"data": plain}))
    build(config(folder, "undisturbed", task_bytes=1024 * 1024))
    for wait in (1.2, 1.8, 2.4):
        process = start_lehr("data", "build", file)
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if (folder / "shards").exists():  # then it is complete
            assert hashes(folder / "shards") == hashes(folder / "undisturbed")
    finished = lehr("data", "build", file)
    assert finished.returncode == 0, finished.stderr
    assert hashes(folder / "shards") == hashes(folder / "undisturbed")


@pytest.mark.slow
def test_a_signal_ends_the_build_in_good_order(folder: Path) -> None:
    write_jsonl(folder / "made.jsonl", [text(seed, words=400) for seed in range(20000)])
    file = folder / "config.yaml"
    file.write_text(json.dumps({"data": config(folder).to_plain()}))
    before = set(folder.iterdir())
    process = start_lehr("data", "build", file)
    while set(folder.iterdir()) == before:  # until it has begun, and has a work folder
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 75, errors
    assert "the same command goes on" in errors
    assert not (folder / "shards").exists()
    survivors = subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True, text=True, check=False)
    assert survivors.stdout == ""
