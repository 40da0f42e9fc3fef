"""Ends a rank that fails or hangs: its message goes to the place where the user looks, once."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, NoReturn, TextIO

from launcher.exit_codes import FAILED, USER_MISTAKE
from launcher.processes.failure_reports import FailureReport, send_report
from launcher.processes.rank_info import RankInfo

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from train.safety.watchdog import Hang

# A rank that hangs keeps its connections for this long, so that the ranks that wait for it report a hang as well, and
# not a lost connection.
_HANG_REPORT_SECONDS = 3.0


def exit_failed(rank_info: RankInfo, error: Exception, console: TextIO) -> NoReturn:
    """Reports the error to the parent, the console or the log, and ends without waiting for the other ranks."""
    report = FailureReport.from_error(error)
    if rank_info.parent is not None:
        send_report(report, rank_info.parent.report_fd)
    elif report.kind == "failure":
        if report.traceback:
            print(report.traceback, file=sys.stderr)
        print(f"rank {rank_info.rank} failed: {report.message}", file=console)
    elif rank_info.rank == 0:
        print(f"error: {report.message}", file=sys.stderr)
    elif rank_info.local_rank == 0:  # another node may lack what rank 0's node has; rank 0 prints the details
        print(f"error on node {rank_info.node_rank}: {report.message.splitlines()[0]}", file=console)
    exit_process(USER_MISTAKE if report.kind == "user" else FAILED, sys.stdout, sys.stderr, console)


def exit_hung(rank_info: RankInfo, hang: Hang, store: Store, console: TextIO) -> NoReturn:
    """Writes the stacks to the log and the rank's position to the console, and ends. The watchdog's thread calls it."""
    line = f"rank {rank_info.rank} hangs: {hang.position}"
    print(f"{line}\n{hang.stacks}", file=sys.stderr, flush=True)
    if rank_info.parent is not None:
        send_report(FailureReport.from_hang(hang.position, hang.main_stack), rank_info.parent.report_fd)
        time.sleep(_HANG_REPORT_SECONDS)
        os._exit(FAILED)
    if rank_info.rank > 0:  # rank 0's standard error is the console
        print(f"{line}\n{hang.main_stack}", file=console, flush=True)
    from launcher.processes.rendezvous import name_unresponsive_ranks  # imports torch

    if unresponsive := name_unresponsive_ranks(store, rank_info, seconds=_HANG_REPORT_SECONDS):
        print(f"the run hangs: {unresponsive}", file=console, flush=True)
    os._exit(FAILED)


def exit_process(code: int, *streams: TextIO) -> NoReturn:
    """Flushes the streams and ends the process.

    It skips the interpreter's own end, where threads of libraries could hang; all files are closed by now.
    """
    for stream in streams:
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
