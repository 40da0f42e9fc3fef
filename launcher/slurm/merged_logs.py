"""The logs of all ranks of one attempt as one, by the time of their lines; or the first error alone."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from launcher.processes.failure_reports import recorded_failures
from launcher.processes.rank_logs import log_path
from settings import UserError

_TIMED = re.compile(r"(?:=== )?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) ?(.*)")
_RANK = re.compile(r"rank-(\d+)\.log")


class LogLine(NamedTuple):
    """A line of a rank's log. A line without a time, which a library wrote, has that of the line before."""

    time: str
    rank: int
    text: str

    def __str__(self) -> str:
        return f"{self.time} rank {self.rank}: {self.text}"


def attempt_folders(logs: Path, job: str) -> list[Path]:
    """Returns the folders of a job's attempts, in order."""
    found = [(int(path.name.rpartition("-")[2]), path) for path in logs.glob(f"job-{job}-attempt-*") if path.is_dir()]
    return [path for _, path in sorted(found)]


def merged(folder: Path) -> Iterator[LogLine]:
    """Yields the lines of all ranks of an attempt by time; those of one rank keep their order."""
    logs = [(int(match[1]), path) for path in sorted(folder.iterdir()) if (match := _RANK.fullmatch(path.name))]
    yield from heapq.merge(*(_lines(rank, path) for rank, path in logs), key=lambda line: line.time)


def first_error(folders: list[Path]) -> str:
    """Returns the earliest failure of the newest attempt that has one. Raises UserError if there is none."""
    for folder in reversed(folders):
        for failure in recorded_failures(folder)[:1]:
            where = f"rank {failure.get('rank')} on node {failure.get('node') or 'unknown'}, {folder.name}"
            log = log_path(folder, int(failure.get("rank", 0)))
            return "\n".join(
                [f"{where}: {failure.get('message')}", str(failure.get("traceback", "")).rstrip(), f"its log: {log}"]
            ).replace("\n\n", "\n")
    raise UserError("no rank of this job has recorded a failure: the job's own output may say more")


def _lines(rank: int, path: Path) -> Iterator[LogLine]:
    time = ""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            text = line.rstrip("\n")
            if match := _TIMED.fullmatch(text):
                time, text = match[1], match[2]
            yield LogLine(time, rank, text)
