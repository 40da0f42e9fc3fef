"""The files of an unfinished build: where they lie, and the reports in which its tasks record what they counted."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_SECONDS_BETWEEN_NOTES = 0.2


@dataclass(frozen=True)
class WorkFolder:
    """The paths within a work folder; `rank` is the number of a task."""

    path: Path

    def documents(self, rank: int) -> Path:
        """Return the path of a task's documents that passed the filters, in input order."""
        return self._in("documents", f"{rank:05d}.jsonl.zst")

    def sample(self, rank: int) -> Path:
        """Return the path of a task's documents on which the tokenizer may be trained."""
        return self._in("sample", f"{rank:05d}.jsonl.zst")

    def bad_documents(self, rank: int) -> Path:
        """Return the path of the list of a task's bad documents, one per line."""
        return self._in("bad_documents", f"{rank:05d}.jsonl")

    def signatures(self, bucket: int, rank: int) -> Path:
        """Return the path of the hashes of a task's documents in one bucket."""
        return self._in(f"signatures/{bucket:03d}", f"{rank:05d}.npy")

    def pairs(self, bucket: int) -> Path:
        """Return the path of the pairs of documents that share a hash in one bucket."""
        return self._in("pairs", f"{bucket:03d}.npy")

    def dropped(self, rank: int) -> Path:
        """Return the path of the numbers of a task's documents that are duplicates or held out in another source."""
        return self._in("dropped", f"{rank:05d}.npy")

    def read_dropped(self, rank: int) -> frozenset[int]:
        """Read the numbers of a task's documents that are duplicates or held out in another source."""
        return frozenset(np.load(self.dropped(rank)).tolist())

    def report(self, stage: str, rank: int) -> Path:
        """Return the path of a task's counts; `stage` may also be a kind of count, such as "filtered"."""
        return self._in(f"reports/{stage}", f"{rank:05d}.json")

    def progress(self, stage: str, rank: int) -> Path:
        """Return the path of a running task's progress file."""
        return self._in(f"progress/{stage}", f"{rank:05d}")

    def error(self, stage: str, rank: int) -> Path:
        """Return the path of the error file of a failed task."""
        return self._in("errors", f"{stage}-{rank:05d}.json")

    def logs(self, stage: str) -> Path:
        """Return datatrove's logging folder of a stage: logs, statistics, and which tasks are complete."""
        return self.path / "logs" / stage

    @property
    def shards(self) -> Path:
        """The folder that becomes the folder of shards."""
        return self.path / "shards"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer.json that goes with the shards."""
        return self._in("shards", "tokenizer.json")

    @property
    def large_window_lock(self) -> Path:
        """The lock that a task holds while it reads a file that needs much memory."""
        return self._in("locks", "large_window")

    def _in(self, folder: str, name: str) -> Path:
        (self.path / folder).mkdir(parents=True, exist_ok=True)
        return self.path / folder / name


class Counts(Counter[str]):
    """The counts of a task, by name."""

    def write(self, path: Path) -> None:
        """Write the counts when the task is done."""
        write_report(path, self)


def write_report(path: Path, report: Any) -> None:
    """Write a report. It need not appear atomically: only reports of tasks that datatrove marked complete are read."""
    path.write_text(json.dumps(report), encoding="utf-8")


def read_report(path: Path) -> Any:
    """Read the report of a complete task."""
    return json.loads(path.read_text(encoding="utf-8"))
