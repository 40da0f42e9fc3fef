"""Altered shards are found by hash; what was found right is not read again, unless it may have changed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_shards import documents, write_source

from data.config import DataConfig
from data.shards.verify import verify_shards
from settings import UserError

TOKENS = 400_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    train = [documents(rng, tokens=n) for n in (300, 200)]
    masks = {1: [[True] * len(document) for document in train[1]]}
    write_source(tmp_path / "shards", "english", train=train, held_out=[documents(rng, tokens=40)], loss=masks)
    write_source(tmp_path / "shards", "long", train=[documents(rng, tokens=TOKENS, longest=4000)])
    return tmp_path / "shards"


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "run/verified_shards.json"


def age(folder: Path) -> None:
    """As if all had been written an hour ago."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 3600, time.time() - 3600))


def flip(path: Path) -> None:
    """One bit, in place; the times stay, as far as a program can have them stay."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(stat.st_size // 2)
        byte = file.read(1)[0]
        file.seek(stat.st_size // 2)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def bytes_read(action: Callable[[], None]) -> int:
    """What this process read from files meanwhile, by the kernel's count."""

    def count() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

    before = count()
    action()
    return count() - before


@pytest.mark.parametrize("name", ["train/00000.ds", "train/00000.ds.index", "train/00001.ds.loss", "held_out/00000.ds"])
def test_an_altered_file_is_named(folder: Path, memory: Path, name: str) -> None:
    flip(folder / "english" / name)
    with pytest.raises(
        UserError, match=rf"{name} was altered since the shards were built: its SHA-256 is [0-9a-f]{{16}}…"
    ):
        verify_shards(DataConfig(shards=folder), memory)
    assert not memory.parent.exists()
    verify_shards(DataConfig(shards=folder, verify_hashes=False), memory)
    assert not memory.parent.exists()


def test_what_was_found_right_is_not_read_again(folder: Path, memory: Path) -> None:
    age(folder)

    def verify() -> None:
        verify_shards(DataConfig(shards=folder), memory)

    assert bytes_read(verify) > 2 * TOKENS
    noted = memory.read_bytes()
    assert bytes_read(verify) < TOKENS / 4
    assert memory.read_bytes() == noted
    os.utime(folder / "long/train/00000.ds")
    assert bytes_read(verify) > 2 * TOKENS
    memory.write_text("{")
    assert bytes_read(verify) > 2 * TOKENS


def test_a_change_after_that_is_noticed(folder: Path, memory: Path) -> None:
    """Also one that leaves size and time of writing as they were; and a file replaced by another."""
    age(folder)
    verify_shards(DataConfig(shards=folder), memory)
    path = folder / "english/train/00000.ds"
    flip(path)
    with pytest.raises(UserError, match=r"00000.ds was altered"):
        verify_shards(DataConfig(shards=folder), memory)
    flip(path)
    verify_shards(DataConfig(shards=folder), memory)
    info = json.loads((folder / "english/dataset.json").read_text())
    info["splits"]["train"]["files"][0]["sha256"] = "0" * 64
    (folder / "english/dataset.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"00000.ds was altered .*dataset.json says 0000000000000000…"):
        verify_shards(DataConfig(shards=folder), memory)


def test_a_file_written_a_moment_ago_is_not_remembered(folder: Path, memory: Path) -> None:
    """It may be written to again within the same tick of the file system's clock."""
    age(folder)
    ahead = time.time() + 60  # a server's clock may be another
    os.utime(folder / "long/train/00000.ds", (ahead, ahead))
    verify_shards(DataConfig(shards=folder), memory)
    remembered = [Path(path).relative_to(folder) for path in json.loads(memory.read_text())["files"]]
    assert Path("english/train/00000.ds") in remembered
    assert Path("long/train/00000.ds") not in remembered


def test_an_index_that_does_not_ascend(folder: Path, memory: Path) -> None:
    """With the hash that fits it: a builder's mistake."""
    import hashlib

    path = folder / "english/train/00000.ds.index"
    ends = np.fromfile(path, np.uint64)
    ends[0], ends[1] = ends[1], ends[0]
    ends.tofile(path)
    info = json.loads((folder / "english/dataset.json").read_text())
    info["splits"]["train"]["files"][0]["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "english/dataset.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="does not ascend"):
        verify_shards(DataConfig(shards=folder), memory)
