"""metrics.jsonl: what each step gave, as JSON lines that a crash cannot garble and a resume does not repeat."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from settings.files import write_text


class MetricsFile:
    """Appends lines. Each is one write of its own, so a reader sees whole lines, whenever it looks."""

    def __init__(self, path: Path, *, from_step: int) -> None:
        """Lines past `from_step` (steps taken so far) are dropped: the run takes those steps anew."""
        drop_past(path, step=from_step)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, values: Mapping[str, float | int | str]) -> None:
        """One line; floats in full, so that they read back equal; what is not finite becomes null."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        line = json.dumps(finite, allow_nan=False).encode() + b"\n"
        written = os.write(self._descriptor, line)
        if written != len(line):
            raise OSError(f"the disk is full: {written} of {len(line)} bytes of a line of metrics.jsonl were written")

    def close(self) -> None:
        """Flush to disk and close."""
        os.fsync(self._descriptor)
        os.close(self._descriptor)


def drop_past(path: Path, *, step: int) -> None:
    """Rewrite the file without lines past `step` and without a last line that was cut off. The file appears whole."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    kept = "".join(f"{line}\n" for line in text.splitlines() if _step_of(line) <= step)
    if kept != text:
        write_text(path, kept)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """What each step gave, in order: the lines of a step (training, then evaluation) together. Null is not a number.

    A last line that is still being written is left out.
    """
    steps: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        step = _step_of(line)
        if step != math.inf:
            steps.setdefault(int(step), {}).update(
                {key: math.nan if value is None else value for key, value in json.loads(line).items()}
            )
    return [steps[step] for step in sorted(steps)]


def _step_of(line: str) -> float:
    """The step of a line; infinite where the line is not one."""
    try:
        plain = json.loads(line)
    except ValueError:
        return math.inf
    step = plain.get("step") if isinstance(plain, dict) else None
    return step if isinstance(step, int) else math.inf
