"""Altered shards are found by hash, and a verified file is read again only if it may have changed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_shards import documents, write_source

from data.config import DataConfig
from data.shards.index import open_shards
from data.shards.verified_record import VerifiedRecord
from data.shards.verify import HashedFile, HashingProgress, Verification, hashed_files, share_of, verify_files
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
    return tmp_path / "cache"


def verify(folder: Path, cache: Path) -> Verification:
    """Verify all files with the help of the record, and record the result. Raises the first problem."""
    record = VerifiedRecord(folder, cache=cache)
    found = verify_files(hashed_files(open_shards(DataConfig(shards=folder))), record.read(), threads=2)
    if found.problems:
        raise UserError(found.problems[0])
    record.add(found.verified)
    return found


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


def bytes_read(action: Callable[[], object]) -> int:
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
        verify(folder, cache)
    assert not (folder / "verified_shards.json").exists()


def test_a_verified_file_is_not_read_again(folder: Path, cache: Path) -> None:
    age(folder)
    record = folder / "verified_shards.json"
    assert bytes_read(lambda: verify(folder, cache)) > 2 * TOKENS
    recorded = record.read_bytes()
    assert bytes_read(lambda: verify(folder, cache)) < TOKENS / 4
    assert record.read_bytes() == recorded
    os.utime(folder / "long/train/00000.ds")
    assert bytes_read(lambda: verify(folder, cache)) > 2 * TOKENS
    record.write_text("{")
    assert bytes_read(lambda: verify(folder, cache)) > 2 * TOKENS


def test_a_change_after_that_is_noticed(folder: Path, cache: Path) -> None:
    """This includes a change that keeps size and modification time, and another hash in dataset.json."""
    age(folder)
    verify(folder, cache)
    path = folder / "english/train/00000.ds"
    flip(path)
    with pytest.raises(UserError, match=r"00000.ds was altered"):
        verify(folder, cache)
    flip(path)
    verify(folder, cache)
    info = json.loads((folder / "english/dataset.json").read_text())
    info["splits"]["train"]["files"][0]["sha256"] = "0" * 64
    (folder / "english/dataset.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"00000.ds was altered .*dataset.json says 0000000000000000…"):
        verify(folder, cache)


def test_a_file_written_a_moment_ago_is_not_cached(folder: Path, cache: Path) -> None:
    """The file could change again within the same tick of the file system's clock."""
    age(folder)
    ahead = time.time() + 60  # a server's clock may differ
    os.utime(folder / "long/train/00000.ds", (ahead, ahead))
    verify(folder, cache)
    cached = [
        Path(path).relative_to(folder) for path in json.loads((folder / "verified_shards.json").read_text())["files"]
    ]
    assert Path("english/train/00000.ds") in cached
    assert Path("long/train/00000.ds") not in cached


def test_a_folder_of_shards_that_cannot_be_written_is_no_obstacle(folder: Path, cache: Path) -> None:
    """The record is in the cache then; if that cannot be written either, all files are read again."""
    age(folder)
    (folder / "verified_shards.json").mkdir()  # nobody can write a file of this name, root included
    verify(folder, cache)
    assert len(list((cache / "verified_shards").iterdir())) == 1
    assert bytes_read(lambda: verify(folder, cache)) < TOKENS / 4
    shutil.rmtree(cache)
    cache.write_text("a file")
    assert verify(folder, cache).read_bytes > 2 * TOKENS
    flip(folder / "english/train/00000.ds")
    with pytest.raises(UserError, match=r"00000.ds was altered"):
        verify(folder, cache)


def test_every_rank_compares_a_share_and_every_file_is_in_one(folder: Path) -> None:
    files = hashed_files(open_shards(DataConfig(shards=folder)))
    shares = [share_of(files, rank=rank, ranks=3) for rank in range(3)]
    assert sorted(file for share in shares for file in share) == sorted(files)
    assert len({len(share) for share in shares}) <= 2
    masks = [file for file in files if file.path.suffix == ".ds"]
    assert {sum(file in masks for file in share) for share in shares} <= {1, 2}


@pytest.fixture
def endless(tmp_path: Path) -> HashedFile:
    """A file without blocks on the disk that takes many seconds to read."""
    path = tmp_path / "endless"
    with path.open("wb") as file:
        file.truncate(2**36)
    return HashedFile(path, "0" * 64)


def test_a_stop_keeps_what_was_compared(folder: Path, endless: HashedFile) -> None:
    age(folder)
    files = hashed_files(open_shards(DataConfig(shards=folder)))
    reports: list[HashingProgress] = []
    stopped = verify_files([*files, endless], {}, threads=1, report=reports.append, stop=lambda: True)
    assert stopped.stopped
    assert not stopped.problems
    assert all(0 <= one.done_bytes <= one.total_bytes for one in reports)
    assert reports[-1].line().startswith("hashing shards: ")
    rest = verify_files(files, stopped.verified, threads=1)
    assert not rest.stopped
    assert len(rest.verified) == len(files)
    left = [file for file in files if str(file.path) not in stopped.verified]
    assert rest.read_bytes == sum(file.path.stat().st_size for file in left)


def test_an_error_or_a_problem_ends_the_reading(folder: Path, endless: HashedFile) -> None:
    files = [*hashed_files(open_shards(DataConfig(shards=folder))), endless]

    def fail() -> bool:
        raise RuntimeError("another rank has failed")

    with pytest.raises(RuntimeError, match="another rank has failed"):
        verify_files(files, {}, threads=1, stop=fail)
    flip(files[0].path)
    found = verify_files(files, {}, threads=1, until_first_problem=True)
    assert found.stopped
    assert len(found.problems) == 1


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
        verify(folder, cache)
