"""Shards within the folder of their input: no build reads what a build wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_text import hashes, make_config, make_text, write_jsonl

from data.pipeline.build import build
from data.pipeline.build_output import BuildOutput, work_folder_name
from data.pipeline.progress import StoppedError
from settings import UserError

SOURCES = {
    "folder": lambda corpus: {"name": "jsonl", "paths": [str(corpus)]},
    "glob": lambda corpus: {"name": "jsonl", "paths": [str(corpus / "**/*.jsonl*")]},
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_jsonl(corpus / "made.jsonl", [*(make_text(seed) for seed in range(400)), ""])  # one is a bad document
    return corpus


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "glob"])
def test_a_second_build_does_not_read_the_first(corpus: Path, kind: str) -> None:
    config = make_config(corpus, sources={"made": SOURCES[kind](corpus)})
    first = build(config)
    assert (corpus / "shards/made.bad_documents.jsonl").is_file()
    assert build(config).already_built
    lines: list[str] = []
    other = build(config.model_copy(update={"shards": corpus / "other"}), log=lines.append)
    assert other.sources == first.sources
    assert hashes(corpus / "other/made") == hashes(corpus / "shards/made")
    assert any("of earlier builds" in line and "not read" in line for line in lines)


@pytest.mark.slow
def test_a_stopped_build_is_continued_beside_its_own_work_folder(corpus: Path) -> None:
    config = make_config(corpus, sources={"made": SOURCES["folder"](corpus)})
    polls = iter(range(1000))
    with pytest.raises(StoppedError):
        build(config, stop=lambda: next(polls) > 5)
    assert list(corpus.rglob("*.jsonl.zst"))
    lines: list[str] = []
    result = build(config, log=lines.append)
    assert any("continuing the unfinished build" in line for line in lines)
    assert result.sources["made"].read == 400


def test_a_source_of_nothing_but_output_is_refused(corpus: Path) -> None:
    work = corpus / work_folder_name("shards", "0" * 12) / "documents"
    work.mkdir(parents=True)
    (work / "00000.jsonl.zst").write_bytes(b"")
    sources = {"made": {"name": "jsonl", "paths": [str(corpus / ".*/*/*.zst")]}}
    with pytest.raises(
        UserError, match=r"data\.sources\.made: every file of it, such as .*00000\.jsonl\.zst, was written"
    ):
        build(make_config(corpus, sources=sources))


def test_what_is_output(tmp_path: Path) -> None:
    output = BuildOutput()
    assert tmp_path / ".a.building-0123456789ab/documents/00000.jsonl.zst" in output
    assert tmp_path / ".a.building-old/00000.jsonl.zst" not in output
    for folder, names in (("shards", ["build.json", "tokenizer.json"]), ("code", ["build.json"])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text("{}")
    assert tmp_path / "shards/made/train/00000.ds" in output
    assert tmp_path / "code/a.jsonl" not in output
