"""Verification: compares the bytes of shards with the hashes in dataset.json, by several threads or ranks at once."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from data.shards.dataset_json import altered_message, unreadable_message
from data.shards.index import Shards
from data.shards.mapped_shard import END_TYPE
from data.shards.verified_record import VerifiedFile
from settings.data_sizes import format_size
from settings.durations import format_duration

# Where the file system's clock is coarse, a file this young may be written to again without a change of its times.
_SECONDS_TO_SETTLE = 2
_CHUNK_BYTES = 8 * 2**20  # of one read
_SECONDS_BETWEEN_REPORTS = 0.25
_SECONDS_BETWEEN_SAVES = 60.0
_MIN_SHARE_DONE = 0.02  # before that, an estimate of the remaining time would be a guess


class HashedFile(NamedTuple):
    """A file of the shards, by its absolute path, with the SHA-256 that dataset.json records."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class HashingProgress:
    """How much has been read of the files that must be read."""

    done_bytes: int
    total_bytes: int
    seconds: float

    def line(self) -> str:
        """Format the progress as one line for the console."""
        share = self.done_bytes / max(self.total_bytes, 1)
        left = self.seconds * (1 - share) / share if share > _MIN_SHARE_DONE else None
        return (
            f"hashing shards: {format_size(self.done_bytes)} of {format_size(self.total_bytes)}, "
            f"{format_size(self.done_bytes / max(self.seconds, 1e-9))}/s"
            + ("" if left is None else f", {format_duration(left)} left")
        )


@dataclass
class Verification:
    """The outcome for several files."""

    verified: dict[str, VerifiedFile] = field(default_factory=dict)  # what to record, by absolute path
    problems: list[str] = field(default_factory=list)  # a message for each file that is wrong
    read_files: int = 0
    read_bytes: int = 0
    stopped: bool = False  # before all files were compared


def hashed_files(shards: Shards) -> list[HashedFile]:
    """Return every file of the shards, source by source."""
    return [
        HashedFile((shards.folder / name / path).absolute(), sha256)
        for name, dataset in shards.datasets.items()
        for split in dataset.splits.values()
        for file in split.files
        for path, sha256 in file.hashes.items()
    ]


def share_of(files: Sequence[HashedFile], *, rank: int, ranks: int) -> list[HashedFile]:
    """Return the files that a rank compares: as many tokens, indexes and masks as any other, if shards are alike."""
    by_kind = sorted(files, key=lambda file: (file.path.suffix, file.path))
    return by_kind[rank::ranks]


def verify_files(
    files: Sequence[HashedFile],
    known: Mapping[str, VerifiedFile],
    *,
    threads: int,
    until_first_problem: bool = False,
    report: Callable[[HashingProgress], None] = lambda progress: None,
    save: Callable[[Mapping[str, VerifiedFile]], object] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Verification:
    """Compare files with their hashes, except those whose attributes are `known`, and check that indexes ascend.

    `report` is called several times a second, and `save` once a minute with the files verified so far. After `stop` has
    returned True, or after a problem with `until_first_problem`, the files compared by then are returned.
    """
    outcome = Verification()
    pending: list[HashedFile] = []
    for file in files:
        attributes = _attributes_of(file)
        if attributes is not None and attributes == known.get(str(file.path)):
            outcome.verified[str(file.path)] = attributes
        else:
            pending.append(file)
    total = sum(attributes.size for file in pending if (attributes := _attributes_of(file)) is not None)
    reader, began, saved = _Reader(), time.monotonic(), time.monotonic()
    with ThreadPoolExecutor(threads) as pool, reader:  # hashing releases the interpreter lock
        futures = {pool.submit(reader.compare, file): file for file in pending}
        running = set(futures)
        while running:
            done, running = wait(running, timeout=_SECONDS_BETWEEN_REPORTS, return_when=FIRST_COMPLETED)
            for future in done:
                comparison = future.result()
                if comparison.verified is not None:
                    outcome.verified[str(futures[future].path)] = comparison.verified
                reader.stopped |= until_first_problem and bool(comparison.problem)
            report(HashingProgress(reader.bytes, total, time.monotonic() - began))
            if save is not None and time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                save(outcome.verified)
                saved = time.monotonic()
            reader.stopped = reader.stopped or stop()
    found = [future.result() for future in futures]
    outcome.problems = [comparison.problem for comparison in found if comparison.problem]
    outcome.stopped = any(comparison.stopped for comparison in found)
    outcome.read_files = sum(not comparison.stopped for comparison in found)
    outcome.read_bytes = reader.bytes
    return outcome


class _Comparison(NamedTuple):
    """The outcome for one file; a file that is right but young has neither a record nor a problem."""

    verified: VerifiedFile | None = None
    problem: str = ""
    stopped: bool = False


class _Reader:
    """Reads files in several threads: it counts their bytes, and can be stopped between two chunks."""

    def __init__(self) -> None:
        self.bytes = 0
        self.stopped = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped = True  # after an error, the threads that are waited for read no further

    def compare(self, file: HashedFile) -> _Comparison:
        """Compares one file with its hash."""
        started, attributes = time.time(), _attributes_of(file)
        try:
            sha256 = self._sha256(file.path)
            if sha256 is None:
                return _Comparison(stopped=True)
            if sha256 != file.sha256:
                return _Comparison(problem=altered_message(file.path, found=sha256, expected=file.sha256))
            if file.path.suffix == ".index" and not _ascends(file.path):
                problem = f"{file.path} does not ascend: it is garbled; build the shards again with `lehr data build`"
                return _Comparison(problem=problem)
        except OSError as error:
            return _Comparison(problem=unreadable_message(file.path, error))
        settled = attributes is not None and started - attributes.mtime_ns / 1e9 > _SECONDS_TO_SETTLE
        return _Comparison(attributes if settled else None)

    def _sha256(self, path: Path) -> str | None:
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while not self.stopped:
                chunk = file.read(_CHUNK_BYTES)
                if not chunk:
                    return digest.hexdigest()
                digest.update(chunk)
                with self._lock:
                    self.bytes += len(chunk)
        return None


def _attributes_of(file: HashedFile) -> VerifiedFile | None:
    try:
        stat = file.path.stat()
    except OSError:
        return None
    return VerifiedFile(
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        ctime_ns=stat.st_ctime_ns,
        inode=stat.st_ino,
        sha256=file.sha256,
    )


def _ascends(index: Path) -> bool:
    last = np.uint64(0)
    with index.open("rb") as file:
        while len(ends := np.fromfile(file, END_TYPE, count=_CHUNK_BYTES // END_TYPE.itemsize)):
            if ends[0] < last or np.any(ends[1:] < ends[:-1]):
                return False
            last = ends[-1]
    return True
