"""metrics.jsonl: what each step gave, as JSON lines that a crash cannot garble and a resume does not repeat."""

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


class MetricsFile:
    """Appends lines. Each is one write of its own, so a reader sees whole lines, whenever it looks."""

    def __init__(self, path: Path, *, from_step: int, evaluated: bool = True, lease: WriterLease | None = None) -> None:
        """Lines past `from_step` (steps taken so far) are dropped, as in `rewind`: the run takes those steps anew.

        With a claim, nothing is written once a newer one was made. The file is made anew at each start, so that what an
        earlier owner holds open leads nowhere. Raises RunError.
        """
        self._path = path
        self._claim = lease
        self._descriptor = -1
        self.rewind(from_step, evaluated=evaluated)

    def rewind(self, step: int, *, evaluated: bool = True) -> None:
        """Drop the lines past `step`: those steps are taken anew. So is its evaluation, where it is not `evaluated`."""
        self.close()
        self._check()
        with explained("writing metrics"):
            drop_past(self._path, step=step, evaluated=evaluated)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, values: Mapping[str, float | int | str]) -> None:
        """One line; floats in full, so that they read back equal; what is not finite becomes null."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        line = json.dumps(finite, allow_nan=False).encode() + b"\n"
        self._check()
        with explained("writing metrics"), naming(self._path):
            written = os.write(self._descriptor, line)
            if written != len(line):  # the disk is full: take the piece back
                os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Flush to disk and close."""
        if self._descriptor >= 0:
            with explained("writing metrics"), naming(self._path):
                os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _check(self) -> None:
        if self._claim is not None:
            self._claim.check()


def drop_past(path: Path, *, step: int, evaluated: bool = True) -> None:
    """Rewrite the file without lines past `step` and without a last line that was cut off. The file is a new one."""
    try:
        lines = read_json_lines(path)
    except FileNotFoundError:
        return
    kept = [(line, values) for line, values in lines if values["step"] <= step]
    if not evaluated:
        kept = [(line, values) for line, values in kept if values["step"] < step or "held_out/loss" not in values]
    write_text(path, "".join(f"{line}\n" for line, _ in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns what each step gave, ascending, one dict a step. Null becomes NaN. Raises OSError."""
    return [
        {key: math.nan if value is None else value for key, value in values.items()}
        for values in read_steps(path).values()
    ]
