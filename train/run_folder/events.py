"""events.jsonl: the events of a run besides its steps, a line each: skipped steps, loss spikes, rollbacks.

It is a log: if a run was killed and took steps anew, their events may be in it twice.
"""

from __future__ import annotations

import datetime
import json
import math
import sys
from pathlib import Path
from typing import Any

from settings.files import explained


class Events:
    """The event log of one run. On ranks that do not write, `add` returns at once."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self._path = path
        self._writes = writes

    def add(self, event: str, message: str, *, step: int, **details: Any) -> None:
        """Appends one line to the file and prints `message` on the console. What is not finite becomes null."""
        if not self._writes:
            return
        print(f"step {step}  {message}", file=sys.stderr, flush=True)
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in details.items()
        }
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": time, "event": event, "step": step, **finite}, allow_nan=False) + "\n"
        with explained("writing events"), self._path.open("a", encoding="utf-8") as file:
            file.write(line)
