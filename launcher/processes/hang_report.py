"""The message of a launcher whose run hangs: where the ranks stand, in which collectives, and the stacks of all."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.processes.failure_reports import FailureReport
from launcher.processes.stuck_collectives import explain_collectives
from parallel.flight_recorder import GroupProgress
from settings.processes import process_state

STACKS_SIGNAL = signal.SIGUSR2  # a rank writes the stacks of all its threads to its log and continues
_SHOWN_LINES = 12
_STATES = {
    "T": "its process is stopped (SIGSTOP or Ctrl-Z; SIGCONT would let it continue)",
    "t": "its process is stopped by a debugger",
    "D": "its process waits in the kernel (a disk or a driver that does not answer)",
}


@dataclass(frozen=True)
class UnresponsiveRank:
    """A rank that neither ended nor reported a failure while the run hung."""

    rank: int
    process_state: str
    log: Path
    log_bytes: int  # size of the log before the rank was sent the signal for its stacks


def request_stacks(rank: int, pid: int, log: Path) -> UnresponsiveRank:
    """Lets a rank write its stacks to its log; a stopped process is continued for it. The rank is killed afterwards."""
    state = process_state(pid)
    explanation = _STATES.get(state.letter if state else "", "its process runs")
    unresponsive = UnresponsiveRank(rank, explanation, log, log.stat().st_size)
    for number in (STACKS_SIGNAL, signal.SIGCONT):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return unresponsive


def explain_hang(reports: Mapping[int, FailureReport], unresponsive: Sequence[UnresponsiveRank]) -> str:
    """Returns the message: the position of each rank that reported, the state of each other rank, and all stacks.

    Between them it says which collectives are stuck, and which ranks did not join them.
    """
    lines = ["the run hangs:"]
    lines += [f"  rank {rank}: {report.message}" for rank, report in reports.items()]
    lines += [f"  rank {one.rank} does not answer: {one.process_state}" for one in unresponsive]
    collectives = {
        rank: [GroupProgress.model_validate(plain) for plain in report.collectives] for rank, report in reports.items()
    }
    lines += explain_collectives(collectives).splitlines()
    for rank, report in reports.items():
        lines += [f"rank {rank}:", *(f"  {line}" for line in report.traceback.rstrip().splitlines()[-_SHOWN_LINES:])]
    for one in unresponsive:
        lines += [f"rank {one.rank}, from its log {one.log}:", *_main_stack(one)]
    return "\n".join(lines)


def _main_stack(unresponsive: UnresponsiveRank) -> list[str]:
    """Reads faulthandler's stack of the main thread, which comes last, its innermost frame first."""
    try:
        with unresponsive.log.open("rb") as file:
            file.seek(unresponsive.log_bytes)
            written = file.read().decode(errors="replace")
    except OSError:
        return []
    _, _, stack = written.partition("Traceback (most recent call last)")[0].rpartition("hread 0x")
    return [line.rstrip() for line in stack.splitlines()[1 : 1 + _SHOWN_LINES]]
