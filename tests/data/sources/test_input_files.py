"""Which files a path gives, and the formats in which they are opened."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from data.sources.files import COMPRESSIONS, count_unread, find_input_files, open_binary, printable
from data.sources.zstd import has_large_window
from settings import UserError

SUFFIXES = (".jsonl", ".jsonl.gz")


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def files(folder: Path, *paths: str) -> list[str]:
    found = find_input_files([str(folder / path) for path in paths], SUFFIXES, key="paths")
    return [str(file.relative_to(folder)) for file in found]


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path, "in/a/1.jsonl", "elsewhere/2.jsonl")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    assert files(tmp_path, "in") == ["in/a/1.jsonl", "in/link/2.jsonl"]
    assert files(tmp_path, "in/**/*.jsonl") == ["in/a/1.jsonl", "in/link/2.jsonl"]


def test_a_file_is_read_once_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "in/1.jsonl")
    (tmp_path / "in" / "0.jsonl").symlink_to("1.jsonl")
    assert len(files(tmp_path, "in", "in/../in/1.jsonl", "in/*.jsonl")) == 1
    monkeypatch.chdir(tmp_path)
    assert len(find_input_files(["in/1.jsonl", "./in/1.jsonl", str(tmp_path / "in")], SUFFIXES, key="paths")) == 1


def test_what_a_folder_leaves_out_is_counted_by_reason(tmp_path: Path) -> None:
    make(tmp_path, "1.jsonl", "2.JSONL", "3.Jsonl.GZ", "readme.md", "a/b.csv", "a/c.csv", ".4.jsonl", "LICENCE")
    make(tmp_path, ".git/5.jsonl", ".git/6.jsonl")
    (tmp_path / "broken.jsonl").symlink_to("nowhere")
    assert files(tmp_path, ".") == ["1.jsonl", "2.JSONL", "3.Jsonl.GZ"]
    assert count_unread([str(tmp_path)], SUFFIXES, key="paths") == {
        "broken links or no regular files": 1,
        "end in .csv": 2,
        "end in .md": 1,
        "have no suffix": 1,
        "hidden": 2,  # a file, and a folder with all that it holds
    }


def test_a_folder_that_cannot_be_listed_is_a_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "1.jsonl", "closed/2.jsonl")
    (tmp_path / "closed").chmod(0)
    if os.access(tmp_path / "closed", os.R_OK):  # root may read everything
        listdir = os.listdir

        def refuse(path: str | Path) -> list[str]:
            if str(path).endswith("closed"):
                raise PermissionError(13, "Permission denied", str(path))
            return listdir(path)

        monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(UserError, match=r"closed cannot be listed: Permission denied"):
        files(tmp_path, ".")


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(UserError, match="paths has an empty path"):
        find_input_files([""], SUFFIXES, key="paths")


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_every_compression_is_read_in_either_case(tmp_path: Path, compression: str, case: Callable[[str], str]) -> None:
    content = random.Random(0).randbytes(300_000) + bytes(1000)
    path = tmp_path / case(f"x.jsonl{compression}")
    path.write_bytes(COMPRESS[compression](content))
    with open_binary(path) as file:
        assert file.read() == content


def test_zstd_windows_up_to_2_gib(tmp_path: Path) -> None:
    content = b"a line of text\n" * 10_000
    for window_log, large in ((27, False), (28, True), (31, True)):
        parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        path = tmp_path / f"{window_log}.zst"
        path.write_bytes(compressor.compress(content) + compressor.flush())
        assert has_large_window(path) == large
        with open_binary(path) as file:
            assert file.read() == content
    (tmp_path / "no.zst").write_text("no zstd")
    assert not has_large_window(tmp_path / "no.zst")


def test_a_zstd_bomb_is_read_in_bounded_pieces(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zst"
    path.write_bytes(zstandard.compress(bytes(1 << 29)))
    assert path.stat().st_size < 1 << 15
    with open_binary(path) as file:
        assert file.read(10) == bytes(10)
        assert len(file.raw._text) <= 1 << 27  # type: ignore[attr-defined]


def test_names_that_are_not_utf8_can_be_printed() -> None:
    assert printable(os.fsdecode(b"caf\xe9.txt")) == "caf\\xe9.txt"
    assert printable("\ud800é") == "\\ud800é"


def test_a_tilde_at_the_beginning_of_a_path_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("~/a.txt", "~/*.txt", "~"):
        assert find_input_files([path], (".txt",), key="paths") == [tmp_path / "a.txt"]
