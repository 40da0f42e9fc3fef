"""`lehr data build`, `inspect` and `verify`: mistakes are one message and exit 2, altered files are exit 1."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import lehr

from settings.data_sizes import format_size

TEXTS = [f"Document {number} of the kiln and the glass, with some words to be of use." for number in range(60)]


def write_config(folder: Path, **more: Any) -> Path:
    """Writes 60 documents and a config that builds them into `shards`; `more` replaces keys of its data section."""
    (folder / "made.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    plain = {
        "shards": str(folder / "shards"),
        "sources": {"made": {"name": "jsonl", "paths": [str(folder / "made.jsonl")], "licence": "CC0-1.0"}},
        "tokenizer": {"vocab_size": 270},
        "held_out_fraction": 0.2,
        "workers": 1,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps({"data": {**plain, **more}}))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    done = lehr("data", "build", write_config(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_build_and_inspect(built: Path) -> None:
    again = lehr("data", "build", built / "config.yaml")
    assert again.returncode == 0, again.stderr
    assert f"already built: {built / 'shards'}" in again.stdout
    inspected = lehr("data", "inspect", built / "shards")
    assert inspected.returncode == 0, inspected.stderr
    rows = {line.split()[3]: line.split() for line in inspected.stdout.splitlines() if line.startswith("made ")}
    assert int(rows["train"][4]) + int(rows["held_out"][4]) == len(TEXTS)
    assert {row[-1] for row in rows.values()} == {"ok"}
    assert "CC0-1.0" in inspected.stdout
    assert "kiln" in inspected.stdout  # the sample


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_matter(built: Path, tmp_path: Path, closed: str) -> None:
    """A file that is opened next would take the descriptor, and with it what is printed."""
    command = f"exec {Path(sys.executable).parent / 'lehr'} data build {write_config(tmp_path)} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for path in (built / "shards/made").rglob("*.ds*"):
        assert path.read_bytes() == (tmp_path / "shards" / path.relative_to(built / "shards")).read_bytes()


def flip_a_bit(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def add_a_space(path: Path) -> None:
    path.write_text(path.read_text() + " ")


ALTERED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a flipped bit": ("made/train/*.ds", flip_a_bit, "was altered"),
    "an index cut short": ("made/train/*.index", cut_short, "was altered"),
    "a missing file": ("made/held_out/*.ds", Path.unlink, "is missing"),
    "another tokenizer": ("tokenizer.json", add_a_space, "was altered"),
}


@pytest.mark.parametrize("kind", ALTERED)
def test_altered_files_are_named(kind: str, built: Path, tmp_path: Path) -> None:
    pattern, alter, verdict = ALTERED[kind]
    shards = tmp_path / "shards"
    shutil.copytree(built / "shards", shards)
    path = next(shards.glob(pattern))
    alter(path)
    done = lehr("data", "inspect", shards)
    assert done.returncode == 1, done.stderr
    assert f"{path.name} {verdict}" in done.stdout
    assert "Traceback" not in done.stderr
    verified = lehr("data", "verify", shards)
    assert verified.returncode == 1, verified.stderr
    (line,) = verified.stderr.splitlines()
    assert str(path) in line
    assert verified.stdout.endswith("; 1 wrong\n")


def test_verify_reads_a_file_once(built: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(built / "shards", shards)
    for path in shards.rglob("*"):
        os.utime(path, (path.stat().st_mtime - 60, path.stat().st_mtime - 60))
    first, again, everything = (lehr("data", "verify", shards, *options) for options in ([], [], ["--all"]))
    assert [one.returncode for one in (first, again, everything)] == [0, 0, 0], first.stderr
    files = [path for path in shards.rglob("*.ds*") if path.suffix in (".ds", ".index", ".hashes")]
    count, size = len(files), format_size(sum(path.stat().st_size for path in files))
    unchanged = ", the others had not changed since they were verified"
    lines = [one.stdout.splitlines()[-1] for one in (first, again, everything)]
    assert lines[0] == lines[2] == f"{shards}: read {count} of {count} files ({size}); 0 wrong"
    assert lines[1] == f"{shards}: read 0 of {count} files (0 bytes){unchanged}; 0 wrong"
    recorded = json.loads((shards / "verified_shards.json").read_text())["files"]
    assert set(recorded) == {str(path) for path in files}
    missing = lehr("data", "verify", tmp_path / "absent")
    assert missing.returncode == 2
    assert "there is no such folder" in missing.stderr


MISTAKES: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "unknown key": ({"held_out": 0.1}, [], "data.held_out: unknown key"),
    "unknown source": ({"sources": {"made": "jsonll"}}, [], 'did you mean "jsonl"?'),
    "unknown filter": ({"filters": ["gopher"]}, [], "data.filters.0"),
    "wrong type": ({}, ["data.workers=many"], 'data.workers = "many"'),
    "out of range": ({}, ["data.held_out_fraction=0.9"], "data.held_out_fraction = 0.9"),
    "negative": ({}, ["data.max_document_bytes=-1"], "data.max_document_bytes = -1"),
    "missing file": ({}, ["data.sources.made.paths=[/nowhere/x.jsonl]"], "/nowhere/x.jsonl"),
    "missing tokenizer": (
        {},
        ["data.tokenizer.path=/nowhere/tokenizer.json"],
        "/nowhere/tokenizer.json",
    ),
    "a source's name": ({"sources": {"a/b": "standard_library"}}, [], "cannot be a folder's name"),
    "no sources": ({"sources": {}}, [], "data.sources"),
    "a malformed override": ({}, ["data.workers"], "must have the form section.key=value"),
    "bad documents": ({"on_bad_document": "fail"}, ["data.max_document_bytes=20"], "made.jsonl"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_one_message_and_leave_nothing(kind: str, tmp_path: Path) -> None:
    changed, overrides, message = MISTAKES[kind]
    done = lehr("data", "build", write_config(tmp_path, **changed), *overrides)
    assert done.returncode == 2, done.stderr + done.stdout
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "shards").exists()


def test_shards_of_another_recipe_are_refused(built: Path) -> None:
    done = lehr("data", "build", built / "config.yaml", "data.held_out_fraction=0.1")
    assert done.returncode == 2, done.stderr
    assert "held_out_fraction" in done.stderr


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "holds no shards"),
        (lambda path: path.write_text("x"), "is a file"),
    ],
    ids=["missing", "empty", "a file"],
)
def test_a_folder_without_shards(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "shards")
    done = lehr("data", "inspect", tmp_path / "shards")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
