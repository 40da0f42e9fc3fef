"""Reading JSON files that are right, wrong, or not there; files that appear together."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from settings import UserError
from settings.files import new_files, read_json, write_json, write_text


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [0.1, None]})
    assert read_json(tmp_path / "a.json") == {"a": [0.1, None]}


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000], ids=["cut off", "not UTF-8", "too deep"])
def test_what_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^{path} cannot be read: .+"):
        read_json(path)
    with pytest.raises(UserError, match=r"^build it again$"):
        read_json(path, invalid="build it again")


def test_a_file_that_is_not_there_has_the_callers_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json cannot be read: .*No such file"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"^build it first$"):
        read_json(tmp_path / "none.json", missing="build it first")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path, missing="build it first")  # a folder is there


def test_new_files_replace_those_of_their_names_or_none(tmp_path: Path) -> None:
    for folder in (tmp_path / "new" / "folder", tmp_path / "old"):
        with contextlib.suppress(InterruptedError), new_files(folder) as staging:
            (staging / "a").write_text("1")
            raise InterruptedError
        assert not folder.exists()
    folder.mkdir()
    (folder / "a").write_text("0")
    (folder / "mine").touch()
    with contextlib.suppress(InterruptedError), new_files(folder) as staging:
        (staging / "a").write_text("1")
        raise InterruptedError
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "0", "mine": ""}
    with new_files(folder) as staging:
        (staging / "a").write_text("1")
        (staging / "b").write_text("2")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "1", "b": "2", "mine": ""}


def test_a_device_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    """As root, a rename would replace /dev/null for the whole machine."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    for path in (pipe, link):
        with pytest.raises(OSError, match="it is a device or a pipe, no file"):
            write_text(path, "text")
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link"}
