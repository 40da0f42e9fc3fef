"""The report of a failed rank to its parent: one JSON object through a pipe, written before the rank ends."""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from parallel.flight_recorder import GroupProgress
from settings import RunError, UserError
from settings.errors import Kind
from settings.files import read_json, write_json

# A pipe holds 64 KiB: within it a rank never waits for its parent to read.
_MOST_CHARACTERS = 7_000  # of a message and of a traceback, at most 4 bytes each


@dataclass(frozen=True)
class FailureReport:
    """The reason for which a rank failed."""

    kind: Kind | Literal["hang"]
    message: str  # a user's mistake in full; else the exception or the position of the hang, in one line
    traceback: str
    seconds: float  # time of the failure on the machine's clock: the earliest failure is the cause of the others
    collectives: list[dict[str, Any]] = field(default_factory=list)  # of a hang: GroupProgress as plain values

    @classmethod
    def from_error(cls, error: BaseException) -> FailureReport:
        """Builds the report of an exception."""
        if isinstance(error, UserError):
            return cls("user", str(error)[:_MOST_CHARACTERS], "", time.time())
        if isinstance(error, RunError):  # its message explains it in full: a traceback would add nothing
            return cls(error.kind, str(error)[:_MOST_CHARACTERS], "", time.time())
        message = " ".join(f"{type(error).__name__}: {error}".split())
        text = "".join(traceback.format_exception(error))
        return cls("failure", message[:1000], text[-_MOST_CHARACTERS:], time.time())

    @classmethod
    def from_hang(cls, position: str, stack: str, collectives: Sequence[GroupProgress] = ()) -> FailureReport:
        """Builds the report of a rank whose watchdog saw no progress."""
        plain = [progress.to_plain() for progress in collectives]
        return cls("hang", position[:1000], stack[-_MOST_CHARACTERS:], time.time(), plain)


@dataclass(frozen=True)
class FailureRecord:
    """The file in which a rank of a Slurm job leaves the reason of its failure: beside its log, a file a rank.

    srun tells only the highest exit code of its tasks, and which of them was the cause it cannot know.
    """

    folder: Path
    rank: int
    node: str

    def write(self, report: FailureReport) -> None:
        """Writes the report. A file system that refuses is no further error."""
        plain = {**asdict(report), "rank": self.rank, "node": self.node}
        with contextlib.suppress(OSError):
            write_json(self.folder / f"failure-rank-{self.rank:05d}.json", plain)


def recorded_failures(folder: Path) -> list[dict[str, Any]]:
    """Reads the failures that the ranks of one attempt have left in the folder of its logs, the earliest first."""
    found = []
    for path in sorted(folder.glob("failure-rank-*.json")):
        with contextlib.suppress(UserError):
            plain = read_json(path)
            if isinstance(plain, dict) and isinstance(plain.get("seconds"), float):
                found.append(plain)
    return sorted(found, key=lambda plain: plain["seconds"])


def send_report(report: FailureReport, fd: int) -> None:
    """Writes a report to the parent's pipe. A parent that has ended is no error."""
    try:
        os.write(fd, json.dumps(asdict(report), ensure_ascii=False).encode(errors="replace"))
    except BrokenPipeError:
        pass
    finally:
        os.close(fd)


def receive_report(fd: int) -> FailureReport | None:
    """Reads the report of a rank that has ended; None if it wrote none, or was killed while writing. Never waits."""
    os.set_blocking(fd, False)
    written = b""
    try:
        while piece := os.read(fd, 1 << 16):
            written += piece
    except BlockingIOError:
        pass  # a child of the rank still holds the other end
    try:
        return FailureReport(**json.loads(written))
    except (ValueError, TypeError):
        return None
