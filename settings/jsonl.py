"""Files of JSON lines: reading those with a `step`, such as metrics.jsonl, while they are written; and appending."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_json_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Returns the lines that are JSON objects with a `step`, a whole number from 0: (line, values), in order.

    What is no such line is left out: the last one of a file that is being written or was cut off. Raises OSError.
    """
    return _json_lines(path.read_text(encoding="utf-8", errors="replace"))


def read_last_lines(path: Path, most_bytes: int) -> list[tuple[str, dict[str, Any]]]:
    """Returns the lines of the last `most_bytes` of a file, as `read_json_lines` does. Raises OSError."""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - most_bytes, 0))
        return _json_lines(file.read().decode("utf-8", errors="replace"))


def read_steps(path: Path) -> dict[int, dict[str, Any]]:
    """Returns the values of each step, ascending; the lines of one step (training, then evaluation) are one.

    Raises OSError.
    """
    steps: dict[int, dict[str, Any]] = {}
    for _, values in read_json_lines(path):
        steps.setdefault(values["step"], {}).update(values)
    return dict(sorted(steps.items()))


def append_json_line(path: Path, values: Mapping[str, object]) -> None:
    """Appends a line in one write and flushes it to disk; a last line that was cut off is removed. For one writer.

    Raises OSError.
    """
    with path.open("a+b", buffering=0) as file:
        file.seek(0)
        before = file.read()
        if before and not before.endswith(b"\n"):
            file.truncate(before.rfind(b"\n") + 1)
        file.write(json.dumps(values, allow_nan=False).encode() + b"\n")
        os.fsync(file.fileno())


def _json_lines(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for line in text.splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        step = values.get("step") if isinstance(values, dict) else None
        if type(step) is int and 0 <= step < 2**63:
            found.append((line, values))
    return found
