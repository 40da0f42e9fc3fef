"""time.jsonl: what the time of each start was spent on, as far as a checkpoint has kept its result.

Rank 0 adds a line at each checkpoint, with the sums since its start. What a start does after its last line is lost with
it, unless it ends well: so the ledger of a run that was killed is right without a last word.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from settings.files import explained
from settings.jsonl import append_json_line, read_json_lines
from train.checkpoint.writer_lease import WriterLease

Use = Literal["steps", "saving", "evaluating"]


@dataclass(frozen=True)
class StartTimes:
    """The sums of one start at its last checkpoint, in seconds."""

    began: float  # when its process began, on the clock of time.time()
    until: float  # when the line was written
    step: int
    starting: float  # from the begin of the process to that of the first step
    steps: float
    saving: float  # that the loop was held
    evaluating: float
    saves: int
    steps_taken: int


class TimeLedger:
    """Sums up the time of this start. On ranks that do not write, it only measures."""

    def __init__(self, path: Path, *, writes: bool, began: float, lease: WriterLease | None = None) -> None:
        """`began`: when the process began, on the clock of time.time(). Nothing is written once `lease` is lost."""
        self._path = path
        self._lease = lease
        self._writes = writes
        self._began = began
        self._starting = 0.0
        self._seconds: dict[Use, float] = {"steps": 0.0, "saving": 0.0, "evaluating": 0.0}
        self._saves = 0
        self._steps_taken = 0

    def start(self) -> None:
        """Notes that the first step begins."""
        self._starting = time.time() - self._began

    def step(self, seconds: float) -> None:
        """Adds a step."""
        self._seconds["steps"] += seconds
        self._steps_taken += 1

    @contextmanager
    def spent_on(self, use: Use) -> Iterator[None]:
        """Adds the time of the body."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[use] += time.perf_counter() - began

    def saved(self, step: int) -> None:
        """Adds a line, after the checkpoint of a step. Raises RunError, FencedError."""
        self._saves += 1
        if not self._writes:
            return
        if self._lease is not None:
            self._lease.check()
        values: dict[str, Any] = {
            "step": step,
            "began": self._began,
            "until": time.time(),
            "starting": self._starting,
            **{str(use): seconds for use, seconds in self._seconds.items()},
            "saves": self._saves,
            "steps_taken": self._steps_taken,
        }
        with explained("writing the ledger of time"):
            append_json_line(self._path, values)


def read_time_ledger(path: Path) -> list[StartTimes]:
    """Returns the sums of each start that has saved a checkpoint, in order; none if there is no file."""
    try:
        lines = read_json_lines(path)
    except FileNotFoundError:
        return []
    last: dict[float, Mapping[str, Any]] = {values["began"]: values for _, values in lines if "began" in values}
    names = StartTimes.__dataclass_fields__
    return [StartTimes(**{name: values[name] for name in names}) for _, values in sorted(last.items())]
