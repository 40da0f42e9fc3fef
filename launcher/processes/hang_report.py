"""What the launch of a run that hangs can learn of ranks that said nothing, and how it tells the user."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.processes.failure_reports import Report
from settings.processes import process_state

STACKS_SIGNAL = signal.SIGUSR2  # a rank writes the stacks of all its threads to its log, and goes on
_SHOWN_LINES = 12
_STATES = {
    "T": "its process is stopped (SIGSTOP or Ctrl-Z; SIGCONT would let it go on)",
    "t": "its process is stopped by a debugger",
    "D": "its process waits in the kernel (a disk or a driver that does not answer)",
}


@dataclass(frozen=True)
class Silent:
    """A rank that did not end and did not say why."""

    number: int
    why: str
    log: Path
    log_bytes: int  # of the log before the rank was asked for its stacks


def ask_for_stacks(number: int, pid: int, log: Path) -> Silent:
    """Have a rank that says nothing write its stacks; one that is stopped is let go on for it. It is to be killed."""
    state = process_state(pid)
    silent = Silent(number, _STATES.get(state.letter if state else "", "its process runs"), log, log.stat().st_size)
    for asked in (STACKS_SIGNAL, signal.SIGCONT):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, asked)
    return silent


def explain_hang(spoke: Mapping[int, Report], silent: Sequence[Silent]) -> str:
    """The message: where each rank stands that said so, what the others do, and all stacks."""
    lines = ["the run hangs:"]
    lines += [f"  rank {number}: {report.message}" for number, report in spoke.items()]
    lines += [f"  rank {rank.number} does not answer: {rank.why}" for rank in silent]
    for number, report in spoke.items():
        lines += [f"rank {number}:", *(f"  {line}" for line in report.traceback.rstrip().splitlines()[-_SHOWN_LINES:])]
    for rank in silent:
        lines += [f"rank {rank.number}, from its log {rank.log}:", *_stack_in(rank)]
    return "\n".join(lines)


def _stack_in(rank: Silent) -> list[str]:
    """What faulthandler wrote of the main thread, which comes last, its innermost frame first."""
    try:
        with rank.log.open("rb") as file:
            file.seek(rank.log_bytes)
            written = file.read().decode(errors="replace")
    except OSError:
        return []
    _, _, stack = written.partition("Traceback (most recent call last)")[0].rpartition("hread 0x")
    return [line.rstrip() for line in stack.splitlines()[1 : 1 + _SHOWN_LINES]]
