"""Input that changes: during a build it is refused, and after a build it is noticed, as far as docs/data.md says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from made_text import make_config, make_text, write_jsonl

from data.pipeline.build import build
from data.pipeline.input_fingerprint import changed_files, fingerprint_input
from data.pipeline.plan import make_plan
from data.pipeline.progress import Progress
from data.sources import RawDocument
from settings import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "made.jsonl", [make_text(seed) for seed in range(400)])
    return tmp_path


def append(path: Path) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps({"text": make_text(seed)}) + "\n" for seed in range(1000, 1400))


def test_parts_of_a_file_that_grows_hold_every_document_of_the_plan_once(folder: Path) -> None:
    config = make_config(folder)
    plan = make_plan(config)
    assert len(plan.tasks) > 4
    found = []
    for number, task in enumerate(plan.tasks):
        if number == 2:
            append(folder / "made.jsonl")
        for part in task.parts:
            found += [item.text for item in config.sources["made"].read(part) if isinstance(item, RawDocument)]
    assert found == [make_text(seed) for seed in range(400)]


@pytest.mark.slow
@pytest.mark.parametrize("change", ["grow", "edit", "remove"])
def test_input_that_changes_during_a_build_is_refused(folder: Path, change: str) -> None:
    path = folder / "made.jsonl"
    changed = False

    def change_once(progress: Progress) -> None:
        nonlocal changed
        if changed:
            return
        changed = True
        content = path.read_bytes()
        if change == "grow":
            append(path)
        elif change == "edit":
            path.write_bytes(content[:30_000] + content[30_000:].replace(b"kiln", b"oven"))
        else:
            path.unlink()

    with pytest.raises(UserError, match=r"data\.sources\.made: .*made\.jsonl changed while the build read it"):
        build(make_config(folder, workers=1), report=change_once)
    assert not (folder / "shards").exists()


@pytest.mark.slow
def test_an_edit_in_the_middle_that_keeps_the_size_is_refused(folder: Path) -> None:
    path = folder / "made.jsonl"
    build(make_config(folder))
    content = bytearray(path.read_bytes())
    place = len(content) // 4
    content[place : place + 5] = b"other"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"built from other input: .*made\.jsonl changed"):
        build(make_config(folder))


def test_what_a_fingerprint_notices_of_a_large_file(folder: Path) -> None:
    path = folder / "made.jsonl"
    write_jsonl(path, [make_text(seed) for seed in range(4000)])
    assert path.stat().st_size > 2 * 2**20
    config = make_config(folder)
    before, times = fingerprint_input(config), path.stat()
    with path.open("r+b") as file:
        file.seek(300_000)
        file.write(b"other")
    assert changed_files(before, fingerprint_input(config)) == [str(path)]
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert changed_files(before, fingerprint_input(config)) == []  # as the docs say


def test_a_small_file_that_was_only_touched_is_the_same(folder: Path) -> None:
    config = make_config(folder)
    before = fingerprint_input(config)
    os.utime(folder / "made.jsonl", (0, 0))
    assert changed_files(before, fingerprint_input(config)) == []


def test_fingerprints_of_earlier_versions_are_compared_as_far_as_they_go(folder: Path) -> None:
    """They were the size and the hash of three samples."""
    now = fingerprint_input(make_config(folder))
    earlier = {file: ":".join(found.split(":")[:2]) for file, found in now.items()}
    assert changed_files(earlier, now) == []
    append(folder / "made.jsonl")
    assert changed_files(earlier, fingerprint_input(make_config(folder))) == [str(folder / "made.jsonl")]
