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

    def pool_sample(self, rank: int) -> Path:
        """Return the path of a task's documents in the random sample that selectors learn from."""
        return self._in("pool_sample", f"{rank:05d}.jsonl.zst")

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

    def not_selected(self, rank: int) -> Path:
        """Return the path of the numbers of a task's documents that left the pool or were not chosen from it."""
        return self._in("not_selected", f"{rank:05d}.npy")

    def held_out_signatures(self, rank: int) -> Path:
        """Return the path of the hashes of a task's held-out documents, in every bucket."""
        return self._in("held_out_signatures", f"{rank:05d}.npy")

    def evaluation_hashes(self, bucket: int) -> Path:
        """Return the path of the sorted hashes of all held-out documents in one bucket."""
        return self._in("evaluation_hashes", f"{bucket:03d}.npy")

    @property
    def targets(self) -> Path:
        """The hashes and texts of the targets of the selection, sorted by hash."""
        return self._in("targets", "targets.jsonl.zst")

    def fitted(self, column: int) -> Path:
        """Return the folder of the arrays that the selector of this column of the scores has learned."""
        return self._in(f"fitted/{column}", "")

    def scores(self, rank: int) -> Path:
        """Return the path of the scores of a task's documents in the pool."""
        return self._in("scores", f"{rank:05d}.npy")

    def left_pool(self, rank: int) -> Path:
        """Return the path of the numbers of a task's documents that are targets or near copies of held-out ones."""
        return self._in("left_pool", f"{rank:05d}.npy")

    def mean_ranks(self, column: int, rank: int) -> Path:
        """Return the path of a task's scores that combine the ranks of several columns, of which this is the first."""
        return self._in(f"mean_ranks/{column}", f"{rank:05d}.npy")

    def choice(self, rank: int) -> Path:
        """Return the path of the final score of each of a task's documents in the pool, and whether it was chosen."""
        return self._in("choice", f"{rank:05d}.npy")

    def score_cells(self, rank: int) -> Path:
        """Return the path of the counts of a task's documents by length and score, in the pool and chosen."""
        return self._in("score_cells", f"{rank:05d}.npy")

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


def read_numbers(path: Path) -> frozenset[int]:
    """Read a file of numbers of documents."""
    return frozenset(np.load(path).tolist())


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
