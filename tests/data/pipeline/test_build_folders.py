"""The folders of a build: links, long names, what other builds left or hold, and a disk without room for anything."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from made_text import hashes, make_config, make_text, write_jsonl

from data.pipeline import task_errors
from data.pipeline.build import build
from data.pipeline.input_fingerprint import fingerprint_input
from data.pipeline.open_work_folder import work_folder_of
from data.pipeline.work_folder import WorkFolder
from settings import UserError, parse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "made.jsonl", [make_text(seed) for seed in range(60)])
    return tmp_path


@pytest.mark.slow
def test_shards_are_built_where_a_link_leads(folder: Path) -> None:
    build(make_config(folder, "plain"))
    for name, exists in (("empty", True), ("missing", False)):
        target = folder / "disk" / name
        target.parent.mkdir(exist_ok=True)
        if exists:
            target.mkdir()
        (folder / name).symlink_to(target)
        config = make_config(folder, name)
        assert work_folder_of(config, {}).path.parent == target.parent
        build(config)
        assert (folder / name).is_symlink()
        assert hashes(target) == hashes(folder / "plain")
        assert build(config).already_built


@pytest.mark.slow
def test_a_name_as_long_as_file_systems_allow(folder: Path) -> None:
    for name in ("x" * 255, "ü" * 127):
        build(make_config(folder, name))
        assert (folder / name / "build.json").is_file()


@pytest.mark.parametrize("name", ["tokenizer.json", "build.json", "web.bad_documents.jsonl", "x" * 250])
def test_a_source_cannot_have_the_name_of_a_file_of_shards_or_a_longer_one_than_fits(folder: Path, name: str) -> None:
    plain = make_config(folder).to_plain()
    plain["sources"] = {name: plain["sources"]["made"]}
    with pytest.raises(UserError, match="cannot be a folder of shards"):
        parse(type(make_config(folder)), plain, source="test")


@pytest.mark.slow
def test_what_a_kill_during_the_clean_up_left_is_removed(folder: Path) -> None:
    config = make_config(folder)
    build(config)
    work = work_folder_of(config, fingerprint_input(config))
    left = work.report("tokens", 0)
    left.write_text("{}")
    with (work.path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the clean-up goes on
        assert build(config).already_built
        assert left.exists()
    assert build(config).already_built
    assert not work.path.exists()


@pytest.mark.slow
def test_a_running_build_is_not_offered_for_removal(folder: Path) -> None:
    other = work_folder_of(make_config(folder, held_out_fraction=0.2), {}).path
    other.mkdir()
    lines: list[str] = []
    with (other / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        build(make_config(folder), log=lines.append)
    assert any(line.endswith(f"it works in {other}") for line in lines)
    assert not any("remove it" in line for line in lines)


@pytest.mark.slow
def test_a_full_disk_needs_no_room_to_be_reported(folder: Path) -> None:
    """The task can write neither its log nor a file with its error."""
    config = make_config(folder)
    work = work_folder_of(config, fingerprint_input(config))
    logs = work.logs("documents")
    (logs / "output").mkdir(parents=True)
    (logs / "output/00000.log").symlink_to("/dev/full")
    work.documents(0).symlink_to("/dev/full")
    (work.path / "errors").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"disk of .* is full .*make room"):
        build(config)


def test_a_job_that_left_no_error_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = WorkFolder(tmp_path)
    assert "out of memory?" in str(task_errors.read_task_error(work, "tokens", 3, "its job ended"))
    monkeypatch.setattr(task_errors, "_FULL_BYTES", 1 << 62)
    error = task_errors.read_task_error(work, "tokens", 3, "its job ended")
    assert isinstance(error, OSError)
    assert "No space left" in str(error)
