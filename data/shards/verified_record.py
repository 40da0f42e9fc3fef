"""The record of shard files whose bytes were right: such a file is not read again until its attributes change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from settings import Settings, parse
from settings.files import write_json

FILE_NAME = "verified_shards.json"


class VerifiedFile(Settings):
    """The attributes of a file when its bytes had this hash."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str


class _Content(Settings):
    """The content of the record: verified files by absolute path."""

    format: Literal[1] = 1
    files: dict[str, VerifiedFile]


class VerifiedRecord:
    """SHARDS/verified_shards.json, or a file in the folder `cache` where nobody may write beside the shards."""

    def __init__(self, shards: Path, *, cache: Path) -> None:
        name = hashlib.sha256(os.fsencode(shards.absolute())).hexdigest()[:16]
        self._paths = (shards.absolute() / FILE_NAME, cache / "verified_shards" / f"{name}.json")

    def read(self) -> dict[str, VerifiedFile]:
        """Return the verified files by absolute path; a record that is missing or broken has none."""
        return {name: file for path in reversed(self._paths) for name, file in _read(path).items()}

    def add(self, files: Mapping[str, VerifiedFile]) -> Path | None:
        """Add verified files. Return where they were written; None if nowhere, so that they are read again."""
        known = self.read()
        merged = dict(sorted({**known, **files}.items()))
        for path in self._paths:
            if merged == known and path.exists():
                return path
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, _Content(files=merged).to_plain())
                return path
        return None


def _read(path: Path) -> dict[str, VerifiedFile]:
    try:
        return parse(_Content, json.loads(path.read_bytes()), source=str(path)).files
    except (OSError, ValueError, RecursionError):
        return {}
