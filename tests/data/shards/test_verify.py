"""Altered shards are found by hash, and a verified file is read again only if it may have changed."""

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
def cache(tmp_path: Path) -> Path:
    return tmp_path / "run/verified_shards.json"


def age(folder: Path) -> None:
    """Make all files look as if they were written an hour ago."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 3600, time.time() - 3600))


def flip(path: Path) -> None:
    """Flip one bit in place, and restore the times as far as a program can."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(stat.st_size // 2)
        byte = file.read(1)[0]
        file.seek(stat.st_size // 2)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def bytes_read(action: Callable[[], None]) -> int:
    """Return how many bytes this process read from files during the action, by the kernel's count."""

    def count() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

    before = count()
    action()
    return count() - before


@pytest.mark.parametrize("name", ["train/00000.ds", "train/00000.ds.index", "train/00001.ds.loss", "held_out/00000.ds"])
def test_an_altered_file_is_named(folder: Path, cache: Path, name: str) -> None:
    flip(folder / "english" / name)
    with pytest.raises(
        UserError, match=rf"{name} was altered since the shards were built: its SHA-256 is [0-9a-f]{{16}}…"
    ):
        verify_shards(DataConfig(shards=folder), cache)
    assert not cache.parent.exists()
    verify_shards(DataConfig(shards=folder, verify_hashes=False), cache)
    assert not cache.parent.exists()


def test_a_verified_file_is_not_read_again(folder: Path, cache: Path) -> None:
    age(folder)

    def verify() -> None:
        verify_shards(DataConfig(shards=folder), cache)

    assert bytes_read(verify) > 2 * TOKENS
    cached = cache.read_bytes()
    assert bytes_read(verify) < TOKENS / 4
    assert cache.read_bytes() == cached
    os.utime(folder / "long/train/00000.ds")
    assert bytes_read(verify) > 2 * TOKENS
    cache.write_text("{")
    assert bytes_read(verify) > 2 * TOKENS


def test_a_change_after_that_is_noticed(folder: Path, cache: Path) -> None:
    """This includes a change that keeps size and modification time, and another hash in dataset.json."""
    age(folder)
    verify_shards(DataConfig(shards=folder), cache)
    path = folder / "english/train/00000.ds"
    flip(path)
    with pytest.raises(UserError, match=r"00000.ds was altered"):
        verify_shards(DataConfig(shards=folder), cache)
    flip(path)
    verify_shards(DataConfig(shards=folder), cache)
    info = json.loads((folder / "english/dataset.json").read_text())
    info["splits"]["train"]["files"][0]["sha256"] = "0" * 64
    (folder / "english/dataset.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"00000.ds was altered .*dataset.json says 0000000000000000…"):
        verify_shards(DataConfig(shards=folder), cache)


def test_a_file_written_a_moment_ago_is_not_cached(folder: Path, cache: Path) -> None:
    """The file could change again within the same tick of the file system's clock."""
    age(folder)
    ahead = time.time() + 60  # a server's clock may differ
    os.utime(folder / "long/train/00000.ds", (ahead, ahead))
    verify_shards(DataConfig(shards=folder), cache)
    cached = [Path(path).relative_to(folder) for path in json.loads(cache.read_text())["files"]]
    assert Path("english/train/00000.ds") in cached
    assert Path("long/train/00000.ds") not in cached


def test_a_cache_that_cannot_be_written_is_no_obstacle(folder: Path, tmp_path: Path) -> None:
    age(folder)
    (tmp_path / "run").write_text("a file")  # no folder can be made here
    verify_shards(DataConfig(shards=folder), tmp_path / "run/verified_shards.json")
    flip(folder / "english/train/00000.ds")
    with pytest.raises(UserError, match=r"00000.ds was altered"):
        verify_shards(DataConfig(shards=folder), tmp_path / "run/verified_shards.json")


def test_an_index_that_does_not_ascend(folder: Path, cache: Path) -> None:
    """Its hash fits, as after a builder's mistake."""
    import hashlib

    path = folder / "english/train/00000.ds.index"
    ends = np.fromfile(path, np.uint64)
    ends[0], ends[1] = ends[1], ends[0]
    ends.tofile(path)
    info = json.loads((folder / "english/dataset.json").read_text())
    info["splits"]["train"]["files"][0]["index_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "english/dataset.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="does not ascend"):
        verify_shards(DataConfig(shards=folder), cache)
