"""The output of the ranks: to the console, to a log for each rank, or to both."""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO, cast

from launcher.processes.rank_info import RankInfo
from launcher.processes.slurm import SlurmJob

# Colours and cursor moves (CSI) and titles (OSC) are of use on a terminal only.
_ANSI = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")


def log_folder(folder: Path, job: SlurmJob | None) -> Path:
    """Returns the folder of the ranks' logs: `folder`, or under Slurm one of this attempt in it."""
    return folder if job is None else folder / job.folder_name


def header_line(rank: int, job: SlurmJob | None) -> str:
    """Returns the first line of a start in a log: which rank it is, where, and of which job."""
    where = f"rank {rank}, process {os.getpid()} on {platform.node()}"
    return f"=== {timestamp()} {where}{'' if job is None else f', {job}'} ==="


def timestamp() -> str:
    """Returns the time in UTC, to the millisecond, as each line of a log begins with it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def log_path(folder: Path, rank: int) -> Path:
    """Returns the path of a rank's log."""
    return folder / f"rank-{rank:05d}.log"


class OutputForwarder:
    """Writes a rank's bytes to the console as they come, and to its log line by line as plain text, with the time.

    The log must be unbuffered.
    """

    def __init__(self, console: IO[bytes] | None, log: IO[bytes]) -> None:
        self._console = console
        self._log = log
        self._line = b""

    def write(self, piece: bytes) -> None:
        """Forwards a piece of output."""
        if self._console is not None:
            try:
                self._console.write(piece)
                self._console.flush()
            except OSError:  # the console was closed (a pager quit, ssh ended): the run and its log continue
                self._console = None
        *lines, self._line = (self._line + piece).split(b"\n")
        self._write_log(lines)

    def end(self) -> None:
        """Writes an unfinished last line to the log."""
        if self._line:
            self._write_log([self._line])
            self._line = b""

    def _write_log(self, lines: list[bytes]) -> None:
        with contextlib.suppress(OSError):  # on a full disk, the run's own files raise an error that explains it
            time = timestamp().encode()
            self._log.write(b"".join(b"%s %s\n" % (time, plain_line(line)) for line in lines))


def plain_line(line: bytes) -> bytes:
    """Returns a line as a terminal shows it in the end, without colours: a `\\r` starts it anew."""
    return _ANSI.sub(b"", line.rstrip(b"\r")).rsplit(b"\r", 1)[-1]


def last_lines(path: Path, count: int) -> str:
    """Returns the last lines of a log, or "" if there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-count:])


class LoggedStream(io.TextIOBase):
    """Replaces sys.stdout or sys.stderr: what Python writes goes to the log, and to the console if there is one."""

    def __init__(self, console: TextIO | None, log: IO[bytes]) -> None:
        self._console = console
        self._file = log
        self._log = OutputForwarder(None, log)

    def write(self, text: str) -> int:
        """Forwards text."""
        if self._console is not None:
            with contextlib.suppress(OSError):
                self._console.write(text)
        self._log.write(text.encode(errors="replace"))
        return len(text)

    def flush(self) -> None:
        """Flushes the console; the log is flushed at every write."""
        if self._console is not None:
            with contextlib.suppress(OSError):
                self._console.flush()

    def isatty(self) -> bool:
        """Returns whether the console is a terminal."""
        return self._console is not None and self._console.isatty()

    def fileno(self) -> int:
        """Returns the console's descriptor, or the log's."""
        return self._file.fileno() if self._console is None else self._console.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The console's encoding."""
        return "utf-8" if self._console is None else self._console.encoding

    def end(self) -> None:
        """Writes an unfinished last line to the log."""
        self._log.end()


@contextlib.contextmanager
def redirect_output(rank_info: RankInfo, folder: Path, job: SlurmJob | None) -> Iterator[TextIO]:
    """Sends this rank's output to its log, and rank 0's to the console as well. Yields the console for final messages.

    The log begins with a line that names the rank, its process and host, and `job`. lehr's own launcher has redirected
    the output of its ranks already; the others get the time before each line here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with log_path(folder, rank_info.rank).open("ab", buffering=0) as log:
        with contextlib.suppress(OSError):
            log.write(f"{header_line(rank_info.rank, job)}\n".encode())
        out, err = sys.stdout, sys.stderr
        if rank_info.rank == 0 and rank_info.launcher == "lehr":
            yield err
            return
        console: TextIO | None = None
        if rank_info.rank == 0:
            streams = LoggedStream(out, log), LoggedStream(err, log)
        else:
            for standard in (out, err):
                standard.flush()
            if rank_info.launcher != "lehr":
                console = os.fdopen(os.dup(err.fileno()), "w", encoding="utf-8", errors="replace")
                os.dup2(log.fileno(), out.fileno())
                os.dup2(log.fileno(), err.fileno())
            streams = LoggedStream(None, log), LoggedStream(None, log)
        sys.stdout, sys.stderr = cast(TextIO, streams[0]), cast(TextIO, streams[1])
        try:
            yield console or sys.stderr
        finally:
            sys.stdout, sys.stderr = out, err
            for stream in streams:
                stream.end()
