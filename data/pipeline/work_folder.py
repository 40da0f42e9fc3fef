"""Where the files of an unfinished build lie, and the small files by which its steps tell how it goes."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_SECONDS_BETWEEN_NOTES = 0.2


@dataclass(frozen=True)
class WorkFolder:
    """Paths within the work folder; `rank` is the number of a task."""

    path: Path

    def documents(self, rank: int) -> Path:
        """The documents that passed the filters, in input order."""
        return self._in("documents", f"{rank:05d}.jsonl.zst")

    def sample(self, rank: int) -> Path:
        """The documents that the tokenizer may be trained on."""
        return self._in("sample", f"{rank:05d}.jsonl.zst")

    def bad_documents(self, rank: int) -> Path:
        """What could not be read, a line each."""
        return self._in("bad_documents", f"{rank:05d}.jsonl")

    def signatures(self, bucket: int, rank: int) -> Path:
        """Hashes by which equal documents find each other."""
        return self._in(f"signatures/{bucket:03d}", f"{rank:05d}.npy")

    def pairs(self, bucket: int) -> Path:
        """Pairs of equal documents by one bucket of signatures."""
        return self._in("pairs", f"{bucket:03d}.npy")

    def duplicates(self, rank: int) -> Path:
        """Numbers of the documents to leave out."""
        return self._in("duplicates", f"{rank:05d}.npy")

    def read_duplicates(self, rank: int) -> frozenset[int]:
        """Numbers of the documents of a task to leave out."""
        return frozenset(np.load(self.duplicates(rank)).tolist())

    def report(self, stage: str, rank: int) -> Path:
        """What a task counted."""
        return self._in(f"reports/{stage}", f"{rank:05d}.json")

    def progress(self, stage: str, rank: int) -> Path:
        """How far a running task is."""
        return self._in(f"progress/{stage}", f"{rank:05d}")

    def error(self, stage: str, rank: int) -> Path:
        """Why a task failed."""
        return self._in("errors", f"{stage}-{rank:05d}.json")

    def logs(self, stage: str) -> Path:
        """datatrove's logging folder of a stage: logs, statistics, and which tasks are complete."""
        return self.path / "logs" / stage

    @property
    def shards(self) -> Path:
        """What becomes the folder of shards."""
        return self.path / "shards"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer.json that goes with the shards."""
        return self._in("shards", "tokenizer.json")

    def _in(self, folder: str, name: str) -> Path:
        (self.path / folder).mkdir(parents=True, exist_ok=True)
        return self.path / folder / name


class Counts(Counter[str]):
    """What a task counts."""

    def write(self, path: Path) -> None:
        """Write it when the task is done."""
        write_report(path, self)


def write_report(path: Path, report: Any) -> None:
    """Not by way of a rename: only the reports of tasks that datatrove has marked complete are read."""
    path.write_text(json.dumps(report), encoding="utf-8")


def read_report(path: Path) -> Any:
    """A report of a completed task."""
    return json.loads(path.read_text(encoding="utf-8"))


class ProgressNote:
    """Writes how many documents and bytes a task has done, a few times a second at most."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.documents = 0
        self.bytes = 0
        self._next = 0.0

    def add(self, text_bytes: int) -> int:
        """One more document; returns the bytes so far."""
        self.documents += 1
        self.bytes += text_bytes
        if time.monotonic() >= self._next:
            self.write()
        return self.bytes

    def write(self) -> None:
        """Note it now."""
        self._path.write_text(f"{self.documents} {self.bytes}", encoding="ascii")
        self._next = time.monotonic() + _SECONDS_BETWEEN_NOTES


def read_progress(path: Path) -> tuple[int, int]:
    """Documents and bytes of a note; (0, 0) where there is none, or it is being written."""
    try:
        documents, text_bytes = path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0, 0
    return int(documents), int(text_bytes)
