"""How a rank tells its parent why it failed: one JSON object through a pipe, written before it ends."""

from __future__ import annotations

import json
import os
import time
import traceback
from dataclasses import asdict, dataclass
from typing import Literal

from settings import RunError, UserError

# A pipe holds 64 KiB: within it a rank never waits for its parent to read.
_MOST_CHARACTERS = 7_000  # of a message and of a traceback: 4 bytes each at most


@dataclass(frozen=True)
class Report:
    """Why a rank failed."""

    kind: Literal["user", "failure", "hang"]
    message: str  # for the user's mistake all there is to say; else the exception, or where the rank hangs, in one line
    traceback: str
    seconds: float  # when, on the machine's clock: the earliest failure is the cause of the others


def describe(error: BaseException) -> Report:
    """The report of an exception."""
    if isinstance(error, UserError):
        return Report("user", str(error)[:_MOST_CHARACTERS], "", time.time())
    if isinstance(error, RunError):  # explained in full: where in the program it was found tells nobody more
        return Report("failure", str(error)[:_MOST_CHARACTERS], "", time.time())
    message = " ".join(f"{type(error).__name__}: {error}".split())
    text = "".join(traceback.format_exception(error))
    return Report("failure", message[:1000], text[-_MOST_CHARACTERS:], time.time())


def of_hang(position: str, stacks: str) -> Report:
    """The report of a rank that found itself without progress."""
    return Report("hang", position[:1000], stacks[-_MOST_CHARACTERS:], time.time())


def send(report: Report, fd: int) -> None:
    """Write a report; a parent that is gone is no error."""
    try:
        os.write(fd, json.dumps(asdict(report), ensure_ascii=False).encode(errors="replace"))
    except BrokenPipeError:
        pass
    finally:
        os.close(fd)


def receive(fd: int) -> Report | None:
    """The report of a rank that has ended, or None if it wrote none (or was killed within it). Never waits."""
    os.set_blocking(fd, False)
    written = b""
    try:
        while piece := os.read(fd, 1 << 16):
            written += piece
    except BlockingIOError:
        pass  # a child of the rank still holds the other end
    try:
        return Report(**json.loads(written))
    except (ValueError, TypeError):
        return None
