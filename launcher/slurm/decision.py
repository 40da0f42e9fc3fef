"""The table that decides if a job ends for good or starts again: the first row that fits decides.

The job's batch file asks (`lehr slurm decide`), and Slurm and the run folder have the facts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from launcher.exit_codes import DIVERGED, DONE, FENCED, STOPPED_EARLY, USER_MISTAKE

Action = Literal["end", "requeue", "leave"]


@dataclass(frozen=True)
class Ending:
    """The facts about an attempt that has ended."""

    exit_code: int | None  # of the ranks; None if the batch file did not live to see it
    cause: str = ""  # in words
    cancelled: bool = False  # `lehr slurm cancel` was called
    ended_by_slurm: bool = False  # Slurm ends the job itself: its user has cancelled it, or a node has failed
    out_of_time: bool = False
    preempted: bool = False
    bad_node: bool = False  # its check found a node that no rank should start on
    lost_node: bool = False  # Slurm has lost a node of the attempt, and put the job back itself
    put_back: bool = False  # somebody has done so: Slurm ended the attempt in good order, with all of its nodes
    new_checkpoint: bool = False
    counted_before: int = 0  # counted starts since the last new checkpoint, without this one


class Row(NamedTuple):
    """A row of the table: what has happened, and what is done then."""

    name: str
    fits: Callable[[Ending], bool]
    action: Action
    counted: bool = False
    fault: bool = False  # of a rank or a node: its time is lost to faults


NODE_FAILED, RUN_FAILED = "a node has failed", "the run has failed"
TABLE = (
    Row("the run is done", lambda e: e.exit_code == DONE, "end"),
    Row("its user has cancelled the job", lambda e: e.cancelled, "end"),
    Row("another job has taken the run over", lambda e: e.exit_code == FENCED, "end"),
    Row("the run has diverged", lambda e: e.exit_code == DIVERGED, "end"),
    Row("the config or a file that it names has a mistake", lambda e: e.exit_code == USER_MISTAKE, "end"),
    Row("another job has preempted it", lambda e: e.preempted, "requeue"),
    Row("Slurm has cancelled it, or puts it back itself", lambda e: e.ended_by_slurm, "leave"),
    Row("the time limit, with a new checkpoint", lambda e: e.out_of_time and e.new_checkpoint, "requeue"),
    Row("stopped early, with a new checkpoint", lambda e: _stopped(e) and e.new_checkpoint, "requeue"),
    Row("the time limit, without a new checkpoint", lambda e: e.out_of_time, "requeue", counted=True),
    Row("stopped early, without a new checkpoint", lambda e: _stopped(e), "requeue", counted=True),
    Row("a node is bad", lambda e: e.bad_node, "requeue", counted=True, fault=True),
    Row(NODE_FAILED, lambda e: e.lost_node, "requeue", counted=True, fault=True),
    Row("somebody has put the job back", lambda e: e.put_back, "requeue", counted=True),
    Row("the batch host was lost", lambda e: e.exit_code is None, "requeue", counted=True, fault=True),
    Row(RUN_FAILED, lambda e: True, "requeue", counted=True, fault=True),
)
NO_PROGRESS = "no progress"


@dataclass(frozen=True)
class Decision:
    """The decision about a job, with its reason."""

    action: Action
    row: str  # the name of the row that decided
    counted: int  # counted starts since the last new checkpoint, with this one
    reason: str
    fault: bool

    @property
    def requeues(self) -> bool:
        """True if the job is put back into the queue."""
        return self.action == "requeue"


def decide(ending: Ending, *, max_failures: int) -> Decision:
    """Returns the decision about a job whose attempt has ended, or has been lost.

    A new checkpoint is progress: it sets the count of starts back. A counted start more than `max_failures` without
    one ends the job.
    """
    row = next(row for row in TABLE if row.fits(ending))
    counted = (0 if ending.new_checkpoint else ending.counted_before) + row.counted
    reason = row.name + (f": {ending.cause}" if ending.cause else "")
    if row.action == "requeue" and counted > max_failures:
        starts = f"{counted} starts" if counted > 1 else "1 start"
        reason = f"{NO_PROGRESS}: {starts} without a new checkpoint, more than max_failures = {max_failures}; {reason}"
        return Decision("end", NO_PROGRESS, counted, reason, row.fault)
    return Decision(row.action, row.name, counted, reason, row.fault)


def _stopped(ending: Ending) -> bool:
    return ending.exit_code == STOPPED_EARLY
