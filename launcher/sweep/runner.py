"""The running of a sweep: several points at a time, until all have ended or a stop is requested."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher.console import ProgressLine
from launcher.exit_codes import DONE, STOPPED_EARLY
from launcher.processes.stop_request import StopRequest
from launcher.sweep.point_process import PointProcess
from launcher.sweep.points import Point
from launcher.sweep.progress import SweepProgress
from launcher.sweep.records import Record, add_record, has_diverged, record_of
from launcher.sweep.summary import skipped_note
from settings import UserError

_POLL_SECONDS = 0.1
_SECONDS_BETWEEN_LINES = 30.0  # if the output is no terminal


@dataclass(frozen=True)
class Failure:
    """A point that has failed: it is tried again by the next call of the command."""

    point: Point
    reason: str


@dataclass
class Outcome:
    """The end of a sweep."""

    records: dict[str, Record]  # by the hash of the config
    failures: list[Failure] = field(default_factory=list)
    stopped: bool = False


def run_points(
    points: Sequence[Point],
    *,
    known: dict[str, Record],
    records: Path,
    jobs: int,
    start: Callable[[Point, int], PointProcess],
    log_of: Callable[[Point], Path],
    stop: StopRequest,
) -> Outcome:
    """Trains the points that have no record, `jobs` at a time, and adds a record for each one that has ended.

    `start` gets a point and the number of a free slot from 0 to jobs - 1. On a stop, running points are stopped with
    checkpoints. After a point that stops by itself, before a time limit, no other begins.
    """
    outcome = Outcome(dict(known))
    waiting = [point for point in points if point.digest not in known]
    progress = SweepProgress(points, finished=known.keys() & {point.digest for point in points})
    line = ProgressLine(seconds_between=_SECONDS_BETWEEN_LINES)
    running: dict[int, tuple[Point, PointProcess]] = {}
    asked = False
    while running or (waiting and not outcome.stopped):
        if stop() and not asked:
            asked = outcome.stopped = True
            line.end()
            print("stopping the running points after their steps; Ctrl-C again ends at once", flush=True)
            for _, process in running.values():
                process.send(signal.SIGTERM)
        while waiting and len(running) < jobs and not outcome.stopped:
            slot = next(number for number in range(jobs) if number not in running)
            running[slot] = (waiting[0], start(waiting[0], slot))
            progress.begin(waiting.pop(0))
        for slot, (point, process) in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[slot]
            progress.end(point)
            line.end()
            _note_end(point, code, outcome, records, log_of(point), progress.counts)
        if running:
            line.show(progress.line())
            time.sleep(_POLL_SECONDS)
    line.end()
    return outcome


def _note_end(point: Point, code: int, outcome: Outcome, records: Path, log: Path, counts: str) -> None:
    """Records a point that has ended, or notes why it has failed. A point that was stopped is neither."""
    if code == STOPPED_EARLY or (outcome.stopped and code != DONE and not has_diverged(point)):
        outcome.stopped = True
        return
    try:
        if code != DONE and not has_diverged(point):
            raise UserError(f"ended with exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}")
        record = record_of(point)
    except UserError as error:
        outcome.failures.append(Failure(point, f"{error}; its log: {log}"))
        print(f"{counts} {point.label}: failed: {error}; its log: {log}", flush=True)
        return
    add_record(records, record)
    outcome.records[record.config] = record
    print(f"{counts} {point.label}: {describe(record)}", flush=True)


def describe(record: Record) -> str:
    """Returns the result of a run in words."""
    if record.loss is None:
        result = f"diverged at step {record.steps}"
    else:
        result = f"{'held-out' if record.loss_is == 'held_out' else 'training'} loss {record.loss:.4f}"
    return result + (f", {skipped_note(record.skipped_steps)}" if record.skipped_steps else "")
