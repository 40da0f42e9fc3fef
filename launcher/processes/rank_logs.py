"""What a rank writes reaches the console, its log, or both."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO, cast

from launcher.processes.environment import Ranks

# Colours and cursor moves (CSI), titles (OSC): of use on a terminal only.
_ANSI = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


def log_path(folder: Path, rank: int) -> Path:
    """The log of one rank."""
    return folder / f"rank-{rank:05d}.log"


class Tee:
    """Bytes of a rank to the console as they come, and to its log line by line without what only terminals use.

    The log must be unbuffered.
    """

    def __init__(self, console: IO[bytes] | None, log: IO[bytes]) -> None:
        self._console = console
        self._log = log
        self._line = b""

    def write(self, piece: bytes) -> None:
        """Pass on a piece of output."""
        if self._console is not None:
            try:
                self._console.write(piece)
                self._console.flush()
            except OSError:  # the console was closed (a pager quit, ssh went away): the run goes on, the log too
                self._console = None
        *lines, self._line = (self._line + piece).split(b"\n")
        self._to_log(lines)

    def end(self) -> None:
        """Write what stands on the last line."""
        if self._line:
            self._to_log([self._line])
            self._line = b""

    def _to_log(self, lines: list[bytes]) -> None:
        with contextlib.suppress(OSError):  # a full disk: what the run itself cannot write will say so
            self._log.write(b"".join(plain(line) + b"\n" for line in lines))


def plain(line: bytes) -> bytes:
    """A line as a terminal would show it in the end, without colours: `\\r` starts it anew."""
    return _ANSI.sub(b"", line.rstrip(b"\r")).rsplit(b"\r", 1)[-1]


def last_lines(path: Path, count: int) -> str:
    """The last lines of a log, or "" where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-count:])


class TextTee(io.TextIOBase):
    """Stands in for sys.stdout or sys.stderr: what Python writes reaches the console and the log."""

    def __init__(self, console: TextIO, log: IO[bytes]) -> None:
        self._console = console
        self._log = Tee(None, log)

    def write(self, text: str) -> int:
        """Pass on text."""
        with contextlib.suppress(OSError):
            self._console.write(text)
        self._log.write(text.encode(errors="replace"))
        return len(text)

    def flush(self) -> None:
        """Flush the console; the log is flushed at every write."""
        with contextlib.suppress(OSError):
            self._console.flush()

    def isatty(self) -> bool:
        """Whether the console is a terminal."""
        return self._console.isatty()

    def fileno(self) -> int:
        """The console's."""
        return self._console.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The console's."""
        return self._console.encoding

    def end(self) -> None:
        """Write what stands on the log's last line."""
        self._log.end()


@contextlib.contextmanager
def rank_output(ranks: Ranks, folder: Path) -> Iterator[TextIO]:
    """Send this rank's output to its log; rank 0's to the console as well. Gives the console for last words.

    A rank that lehr started itself has been given its outputs by its parent already.
    """
    if ranks.source == "own":
        yield sys.stderr
        return
    folder.mkdir(parents=True, exist_ok=True)
    with log_path(folder, ranks.rank).open("ab", buffering=0) as log:
        out, err = sys.stdout, sys.stderr
        if ranks.rank == 0:
            tees = TextTee(out, log), TextTee(err, log)
            sys.stdout, sys.stderr = cast(TextIO, tees[0]), cast(TextIO, tees[1])
            try:
                yield sys.stderr
            finally:
                sys.stdout, sys.stderr = out, err
                for tee in tees:
                    tee.end()
            return
        for stream in (out, err):
            stream.flush()
        console = os.fdopen(os.dup(err.fileno()), "w", encoding="utf-8", errors="replace")
        os.dup2(log.fileno(), out.fileno())
        os.dup2(log.fileno(), err.fileno())
        yield console
