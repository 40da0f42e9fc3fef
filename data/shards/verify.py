"""Verification: the bytes of shards are compared with the hashes in dataset.json, and results are cached by file."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from data.config import DataConfig
from data.shards.dataset_json import check_hash
from data.shards.index import Shards, open_shards
from settings import Settings, parse
from settings.files import write_json

# Where the file system's clock is coarse, a file this young may be written to again without a change of its times.
_SECONDS_TO_SETTLE = 2


class VerifiedFile(Settings):
    """The attributes of a file when its bytes had this hash."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str


class _Cache(Settings):
    """The content of the cache file: verified files by absolute path."""

    format: Literal[1] = 1
    files: dict[str, VerifiedFile]


def verify_shards(config: DataConfig, cache: Path) -> None:
    """Compare every file of the shards with its hash, and check that indexes ascend.

    `cache` is the file that remembers verified files; a file whose attributes have not changed since is not read again.
    Raises UserError for a file that was altered. Does nothing without `data.verify_hashes`.
    """
    if not config.verify_hashes:
        return
    shards = open_shards(config)
    known = _read_cache(cache)
    files = list(_hashed_files(shards))
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        found = list(pool.map(lambda item: _verify(item[0], item[1], known.get(str(item[0]))), files))
    verified = {str(path): file for (path, _), file in zip(files, found, strict=True) if file}
    if verified == known and len(verified) == len(files):
        return
    for name, dataset in shards.datasets.items():
        for split in dataset.splits:
            shards.stream(name, split).check_documents()
    if verified:
        with contextlib.suppress(OSError):  # without the cache, as in a run folder of somebody else, all is read again
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, _Cache(files=verified).to_plain())


def _verify(path: Path, expected: str, known: VerifiedFile | None) -> VerifiedFile | None:
    """Return what to cache of the file, or None if it is too young. Raises UserError if it was altered."""
    started = time.time()
    stat = path.stat()
    current = VerifiedFile(
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        ctime_ns=stat.st_ctime_ns,
        inode=stat.st_ino,
        sha256=expected,
    )
    if current != known:
        check_hash(path, expected)
    return current if started - stat.st_mtime > _SECONDS_TO_SETTLE else None


def _read_cache(path: Path) -> dict[str, VerifiedFile]:
    """Return the verified files; none if the cache is missing or broken, so that all files are read again."""
    try:
        return parse(_Cache, json.loads(path.read_bytes()), source=str(path)).files
    except (OSError, ValueError, RecursionError):
        return {}


def _hashed_files(shards: Shards) -> Iterable[tuple[Path, str]]:
    """Yield every file of the shards, as an absolute path, with the SHA-256 that dataset.json records."""
    for name, dataset in shards.datasets.items():
        for split in dataset.splits.values():
            for file in split.files:
                for path, sha256 in file.hashes.items():
                    yield (shards.folder / name / path).absolute(), sha256
