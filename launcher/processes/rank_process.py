"""One rank of lehr's own launcher, as its parent sees it: a forked process, its pipe for a report, its log."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

from launcher.exit_codes import DONE, STOPPED_EARLY
from launcher.processes.environment import export_rank_info
from launcher.processes.failure_reports import FailureReport, receive_report
from launcher.processes.forked_process import run_forked
from launcher.processes.rank_info import ParentHandles, RankInfo
from launcher.processes.rank_logs import log_path

POLL_SECONDS = 0.1
_FLAGS_FIELD = 6  # of /proc/PID/stat, after the name: proc(5)
_PF_EXITING = 0x4  # include/linux/sched.h


@dataclass
class RankProcess:
    """A rank that was started. It is the head of a process group of its own."""

    rank: int
    pid: int
    report_fd: int
    log: IO[bytes]
    log_path: Path
    exit_code: int | None = None  # None while it runs; minus the signal's number if a signal ended it
    report: FailureReport | None = None
    failed_at: float = field(
        default_factory=time.time
    )  # time.time() of its failure; without a report, when it was last known to run and not to be ending

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.exit_code is None

    @property
    def failed(self) -> bool:
        """Whether it has ended with another exit code than done or stopped early."""
        return self.exit_code not in (None, DONE, STOPPED_EARLY)

    def poll(self) -> None:
        """Notes whether the rank has ended, kills what it left running, and receives its report.

        A rank that a signal has killed may close its connections some time before it can be waited for, and the ranks
        that lose it fail in between. So its time is that before it began to end: only then is it the first.

        The group is killed before the process is waited for: until then no other process can have its number.
        """
        if not self.runs:
            return
        now = time.time()
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if not _is_ending(self.pid):
                self.failed_at = now
            return
        self.kill()
        self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.report = receive_report(self.report_fd)
        if self.report is not None:
            self.failed_at = self.report.seconds

    def kill(self) -> None:
        """Kills the rank and all that it started, unless it has been waited for."""
        if self.runs:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                os.kill(self.pid, signal.SIGKILL)  # it has not made its group yet

    def close(self) -> None:
        """Waits for the rank, which must have been killed if it still ran, and closes its files."""
        if self.runs:
            os.waitpid(self.pid, 0)
        self.log.close()
        os.close(self.report_fd)


def _is_ending(pid: int) -> bool:
    """Returns whether the kernel is taking a process down: it sets a flag before it closes the first file."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return bool(int(fields[_FLAGS_FIELD]) & _PF_EXITING)


def fork_rank(
    start: Callable[[RankInfo], NoReturn],
    rank: int,
    *,
    count: int,
    listener: socket.socket,
    log_folder: Path,
    open_console_pipes: Callable[[IO[bytes]], tuple[int, int]],
) -> RankProcess:
    """Forks one of `count` ranks, which calls `start`.

    `listener`: the socket at the master port. `open_console_pipes`: opens the descriptors of rank 0's standard output
    and error, whose text goes to the console and to the log; the other ranks write to their logs.
    """
    path = log_path(log_folder, rank)
    log = path.open("ab", buffering=0)
    read_fd, write_fd = os.pipe()
    parent = ParentHandles(pid=os.getpid(), report_fd=write_fd, store_fd=listener.fileno() if rank == 0 else None)
    port = listener.getsockname()[1]
    rank_info = RankInfo(rank, rank, count, count, 0, "127.0.0.1", port, "lehr", parent)
    out, err = open_console_pipes(log) if rank == 0 else (log.fileno(), log.fileno())
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid == 0:
        _run_child(start, rank_info, parent, out, err, listener)
    for descriptor in {write_fd, out, err} - {log.fileno()}:
        os.close(descriptor)
    return RankProcess(rank, pid, read_fd, log, path)


def _run_child(
    start: Callable[[RankInfo], NoReturn],
    rank_info: RankInfo,
    parent: ParentHandles,
    out: int,
    err: int,
    listener: socket.socket,
) -> NoReturn:
    """Makes the forked process a rank and calls `start`. It never returns to the code of the parent."""
    columns = shutil.get_terminal_size().columns if rank_info.rank == 0 and sys.stdout.isatty() else None

    def become_rank() -> NoReturn:
        export_rank_info(rank_info, console_columns=columns)
        if parent.store_fd is None:
            listener.close()
        for inherited in (parent.report_fd, parent.store_fd):
            if inherited is not None:
                os.set_inheritable(inherited, True)
        start(rank_info)

    run_forked(become_rank, parent_pid=parent.pid, out=out, err=err)
