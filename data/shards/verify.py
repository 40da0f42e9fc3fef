"""The bytes of shards against the hashes of their dataset.json; a file found right once is not read again."""

from __future__ import annotations

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
from settings.files import explained, write_json

# A file written to this lately may be written to again without its times showing it, where these are coarse.
_SECONDS_TO_SETTLE = 2


class Verified(Settings):
    """What a file was like when its bytes had this hash."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str


class _Memory(Settings):
    """The whole of the file that remembers, by absolute path."""

    format: Literal[1] = 1
    files: dict[str, Verified]


def verify_shards(config: DataConfig, memory: Path) -> None:
    """Compare every file of the shards with its hash, and see that indices ascend; `memory` is a file to remember in.

    Read are the files that are not as they were remembered. Raises UserError for one that was altered. Does nothing
    without `data.verify_hashes`.
    """
    if not config.verify_hashes:
        return
    shards = open_shards(config)
    known = _recall(memory)
    files = list(_hashed_files(shards))
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to others
        found = list(pool.map(lambda item: _verify(item[0], item[1], known.get(str(item[0]))), files))
    verified = {str(path): seen for (path, _), seen in zip(files, found, strict=True) if seen}
    if verified == known and len(verified) == len(files):
        return
    for name, dataset in shards.datasets.items():
        for split in dataset.splits:
            shards.stream(name, split).check_documents()
    if verified:
        with explained("noting which shards are verified"):
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_json(memory, _Memory(files=verified).to_plain())


def _verify(path: Path, expected: str, known: Verified | None) -> Verified | None:
    """What to remember of the file, None where it is too new for that. Raises UserError where it was altered."""
    started = time.time()
    stat = path.stat()
    seen = Verified(
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        ctime_ns=stat.st_ctime_ns,
        inode=stat.st_ino,
        sha256=expected,
    )
    if seen != known:
        check_hash(path, expected)
    return seen if started - stat.st_mtime > _SECONDS_TO_SETTLE else None


def _recall(memory: Path) -> dict[str, Verified]:
    """Nothing where the file is missing or broken: all is read again."""
    try:
        return parse(_Memory, json.loads(memory.read_bytes()), source=str(memory)).files
    except (OSError, ValueError, RecursionError):
        return {}


def _hashed_files(shards: Shards) -> Iterable[tuple[Path, str]]:
    for name, dataset in shards.datasets.items():
        for split in dataset.splits.values():
            for file in split.files:
                for path, sha256 in file.hashes.items():
                    yield (shards.folder / name / path).absolute(), sha256
