"""metrics.jsonl: the metrics of each step, as JSON lines that a crash cannot garble and a resume does not repeat."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from settings.files import explained, naming, write_text
from settings.jsonl import read_json_lines, read_steps
from train.checkpoint.writer_lease import WriterLease
from train.held_out_loss import HELD_OUT_LOSS


class MetricsFile:
    """Appends lines. Each is one write of its own, so a reader sees complete lines, whenever it looks."""

    def __init__(self, path: Path, *, from_step: int, evaluated: bool = True, lease: WriterLease | None = None) -> None:
        """`from_step` steps are taken already; lines past them are dropped, as in `rewind`: those steps are taken anew.

        With a lease, nothing is written once a newer lease was taken. Each start creates the file anew, so that a file
        that an earlier holder of the lease still has open leads nowhere. Raises RunError.
        """
        self._path = path
        self._lease = lease
        self._descriptor = -1
        self.rewind(from_step, evaluated=evaluated)

    def rewind(self, step: int, *, evaluated: bool = True) -> None:
        """Drops the lines past `step`, and the evaluation of `step` unless it is `evaluated`: it is made anew."""
        self.close()
        self._check_lease()
        with explained("writing metrics"):
            drop_past(self._path, step=step, evaluated=evaluated)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, values: Mapping[str, float | int | str | None]) -> None:
        """Appends one line. Floats are written in full and read back equal; what is not finite becomes null."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        line = json.dumps(finite, allow_nan=False).encode() + b"\n"
        self._check_lease()
        with explained("writing metrics"), naming(self._path):
            written = os.write(self._descriptor, line)
            if written != len(line):  # the disk is full: take back what was written
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Flushes to disk and closes the file."""
        if self._descriptor >= 0:
            with explained("writing metrics"), naming(self._path):
                os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()


def drop_past(path: Path, *, step: int, evaluated: bool = True) -> None:
    """Writes the file anew without lines past `step` and without a last line that was cut off."""
    try:
        lines = read_json_lines(path)
    except FileNotFoundError:
        return
    kept = [(line, values) for line, values in lines if values["step"] <= step]
    if not evaluated:
        kept = [(line, values) for line, values in kept if values["step"] < step or HELD_OUT_LOSS not in values]
    write_text(path, "".join(f"{line}\n" for line, _ in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns what each step gave, ascending, one dict a step. Null becomes NaN. Raises OSError."""
    return [
        {key: math.nan if value is None else value for key, value in values.items()}
        for values in read_steps(path).values()
    ]
