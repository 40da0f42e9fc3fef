"""The small file by which a running task reports how many documents and bytes it has done."""

from __future__ import annotations

import time
from pathlib import Path

_SECONDS_BETWEEN_WRITES = 0.2


class TaskProgress:
    """Counts a task's documents and bytes, and writes them to a file a few times a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.documents = 0
        self.bytes = 0
        self._next_write = 0.0

    def add(self, text_bytes: int) -> int:
        """Count one more document, and return the bytes so far."""
        self.documents += 1
        self.bytes += text_bytes
        if time.monotonic() >= self._next_write:
            self.write()
        return self.bytes

    def write(self) -> None:
        """Write the counts now."""
        self._path.write_text(f"{self.documents} {self.bytes}", encoding="ascii")
        self._next_write = time.monotonic() + _SECONDS_BETWEEN_WRITES


def read_task_progress(path: Path) -> tuple[int, int]:
    """Read a task's documents and bytes; (0, 0) if the file is missing or is being written."""
    try:
        documents, text_bytes = path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 0, 0
    return int(documents), int(text_bytes)
