"""The progress of a build: documents, MB/s, and the remaining time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.pipeline.task_progress import read_task_progress
from data.pipeline.work_folder import WorkFolder
from settings.data_sizes import format_size
from settings.durations import format_duration

_SECONDS_BETWEEN_REPORTS = 0.25
_MIN_SHARE_DONE = 0.02  # before that, an estimate of the remaining time would be a guess


class StoppedError(Exception):
    """The build stopped in good order because `stop` returned True; another call continues it."""


@dataclass(frozen=True)
class StageCost:
    """The estimated cost of a stage, from which the remaining time of a build is computed."""

    name: str
    label: str  # for the user
    tasks: int
    text_bytes: int  # that it processes
    seconds_per_mb: float  # of one task; only the ratio of one stage to another matters


@dataclass(frozen=True)
class Progress:
    """The progress of a build at one moment. Documents and bytes are the current stage's."""

    stage: str
    number: int  # of the stage, from 1
    stages: int
    documents: int
    bytes: int
    mb_per_second: float
    share_done: float  # of the whole build
    seconds: float
    seconds_left: float | None

    def line(self) -> str:
        """Format the progress as one line for the console."""
        left = "" if self.seconds_left is None else f", {format_duration(self.seconds_left)} left"
        return (
            f"[{self.number}/{self.stages}] {self.stage}: {self.documents:,} documents, "
            f"{format_size(self.bytes)}, {self.mb_per_second:.1f} MB/s, {self.share_done:.0%} of all{left}"
        )


class ProgressMonitor:
    """Reads the progress files of running tasks, reports the build's progress, and polls whether to stop."""

    def __init__(
        self,
        work: WorkFolder,
        stages: Sequence[StageCost],
        *,
        workers: int,
        stop: Callable[[], bool],
        report: Callable[[Progress], None],
    ) -> None:
        self._work, self._stages, self._stop, self._report = work, stages, stop, report
        self._costs = [
            stage.text_bytes / 1e6 * stage.seconds_per_mb / max(1, min(workers, stage.tasks)) + 1e-3 for stage in stages
        ]
        self._start = time.monotonic()
        self._cost_before: float | None = None  # of what an earlier call did; known at the first report
        self._next_report = 0.0
        self.start_stage(-1, ())

    def start_stage(self, number: int, complete: Sequence[int]) -> None:
        """Begin a stage; the tasks `complete` are complete already."""
        self._number = number
        self._stage_start = time.monotonic()
        self._counts = {rank: self._read_counts(rank) for rank in complete}
        self._bytes_before = sum(text_bytes for _, text_bytes in self._counts.values())
        self._running: frozenset[int] = frozenset()

    def poll(self, running: Sequence[int]) -> bool:
        """Report the progress if it is time to, and return whether the executor should stop."""
        if time.monotonic() >= self._next_report:
            self._next_report = time.monotonic() + _SECONDS_BETWEEN_REPORTS
            for rank in self._running.union(running):
                self._counts[rank] = self._read_counts(rank)
            self._running = frozenset(running)
            self._report(self._progress())
        return self._stop()

    def _read_counts(self, rank: int) -> tuple[int, int]:
        return read_task_progress(self._work.progress(self._stages[self._number].name, rank))

    def _progress(self) -> Progress:
        stage = self._stages[self._number]
        documents = sum(documents for documents, _ in self._counts.values())
        text_bytes = sum(text_bytes for _, text_bytes in self._counts.values())
        share_of_stage = min(1.0, text_bytes / stage.text_bytes) if stage.text_bytes else 0.0
        cost = sum(self._costs[: self._number]) + share_of_stage * self._costs[self._number]
        if self._cost_before is None:
            self._cost_before = cost
        total, spent = sum(self._costs), cost - self._cost_before
        seconds = time.monotonic() - self._start
        return Progress(
            stage=stage.label,
            number=self._number + 1,
            stages=len(self._stages),
            documents=documents,
            bytes=text_bytes,
            mb_per_second=(text_bytes - self._bytes_before) / 1e6 / max(time.monotonic() - self._stage_start, 1e-9),
            share_done=cost / total,
            seconds=seconds,
            seconds_left=seconds * (total - cost) / spent if spent / total > _MIN_SHARE_DONE else None,
        )
