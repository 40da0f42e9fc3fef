"""Ends a rank that fails or hangs: its message goes to the place where the user looks, once."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, NoReturn, TextIO

from launcher.exit_codes import FAILED, USER_MISTAKE, code_of
from launcher.processes.failure_reports import FailureRecord, FailureReport, send_report
from launcher.processes.rank_info import AddressError, RankInfo
from parallel.flight_recorder import group_progress
from train.safety.stop_signals import set_stop_handlers

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from train.safety.watchdog import Hang

# A rank that hangs keeps its connections for this long, so that the ranks that wait for it report a hang as well, and
# not a lost connection.
_HANG_REPORT_SECONDS = 3.0
RANK_0_FIRST_SECONDS = 10.0  # rank 0 explains why the ranks do not meet; the others give up so much later
_LEAD_SECONDS = 2.0  # for rank 0 to print a mistake that all ranks have
_MISTAKE_OF = "mistake of"  # the store's key for the rank that prints a mistake


def exit_failed(
    rank_info: RankInfo,
    error: Exception,
    console: TextIO,
    store: Store | None = None,
    record: FailureRecord | None = None,
) -> NoReturn:
    """Reports the error to the parent, the console or the log, and ends.

    `store`: that of the ranks of torchrun or srun, by which only one of them prints a mistake that all of them have.
    `record`: where the failure is kept for the one who decides whether the job starts again.
    """
    report = FailureReport.from_error(error)
    if record is not None:
        record.write(report)
    own_mistake = report.kind == "user"
    others_mistake = not own_mistake and store is not None and _others_mistake(store)
    if rank_info.parent is not None:
        send_report(report, rank_info.parent.report_fd)
    elif own_mistake:
        if store is None or _prints_mistake(store, rank_info):
            print(f"error: {report.message}", file=sys.stderr if rank_info.rank == 0 else console)
    elif others_mistake:
        print(f"{report.traceback}another rank has a mistake, which it prints", file=sys.stderr)
    else:
        if report.traceback:
            print(report.traceback, file=sys.stderr)
        print(f"rank {rank_info.rank} failed: {report.message}", file=console)
    exit_process(USER_MISTAKE if others_mistake else code_of(report.kind), sys.stdout, sys.stderr, console)


def exit_without_store(error: AddressError) -> NoReturn:
    """Prints the message and ends, if the ranks cannot meet: rank 0 at once, because the others have the same mistake.

    If the launcher has not ended them 10 s later, the others end too; one of each further node prints the message.
    """
    exit_on_stop_signals(USER_MISTAKE)
    if error.rank > 0:
        time.sleep(RANK_0_FIRST_SECONDS)
    if error.local_rank == 0:
        prefix = f"rank {error.rank} on {socket.gethostname()}: " if error.rank else ""
        print(f"error: {prefix}{error}", file=sys.stderr)
    exit_process(USER_MISTAKE, sys.stdout, sys.stderr)


def exit_hung(
    rank_info: RankInfo, hang: Hang, store: Store, console: TextIO, record: FailureRecord | None = None
) -> NoReturn:
    """Writes the stacks to the log and the rank's position to the console, and ends. The watchdog's thread calls it."""
    line = f"rank {rank_info.rank} hangs: {hang.position}"
    print(f"{line}\n{hang.stacks}", file=sys.stderr, flush=True)
    report = FailureReport.from_hang(hang.position, hang.main_stack, group_progress())
    if record is not None:
        record.write(report)
    if rank_info.parent is not None:
        send_report(report, rank_info.parent.report_fd)
        time.sleep(_HANG_REPORT_SECONDS)
        os._exit(FAILED)
    if rank_info.rank > 0:  # rank 0's standard error is the console
        print(f"{line}\n{hang.main_stack}", file=console, flush=True)
    from launcher.processes.hang_exchange import exchange_hangs  # imports torch

    if text := exchange_hangs(store, rank_info, group_progress(), seconds=_HANG_REPORT_SECONDS):
        print(f"the run hangs: {text}", file=console, flush=True)
    os._exit(FAILED)


def exit_process(code: int, *streams: TextIO) -> NoReturn:
    """Flushes the streams and ends the process.

    It skips the interpreter's own end, where threads of libraries could hang; all files are closed by now.
    """
    for stream in streams:
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def exit_on_stop_signals(code: int) -> None:
    """Makes a stop signal end the process with this code: the launcher sends one when the first rank has ended."""
    set_stop_handlers(lambda number, frame: os._exit(code))


def _prints_mistake(store: Store, rank_info: RankInfo) -> bool:
    """Returns whether this rank prints its mistake: the first one that has a mistake does, and rank 0 has a lead."""
    deadline = time.monotonic() + _LEAD_SECONDS
    try:
        while rank_info.rank > 0 and time.monotonic() < deadline and not store.check([_MISTAKE_OF]):
            time.sleep(0.05)
        return int(store.compare_set(_MISTAKE_OF, "", str(rank_info.rank))) == rank_info.rank
    except RuntimeError:  # rank 0 served the store, and has ended: it had the mistake too
        return False


def _others_mistake(store: Store) -> bool:
    """Returns whether this failure is the consequence of a mistake that ended another rank."""
    try:
        return store.check([_MISTAKE_OF])
    except RuntimeError:
        return False
