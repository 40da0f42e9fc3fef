"""The process that trains one point of a sweep: `lehr train` of the point's config, with its output in a log."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from launcher.processes.environment import limit_to
from launcher.processes.forked_process import run_forked
from launcher.processes.rank_info import SINGLE_PROCESS, RankInfo
from launcher.processes.start_method import lehr_command, rank_starter
from train.safety.stop_signals import STOP_SIGNALS


class PointProcess:
    """A running point."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """Returns the exit code, minus the signal's number if a signal ended it; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def send(self, number: int) -> None:
        """Sends a signal to the head of the run, which passes it on to its ranks."""
        os.kill(self.pid, number)


def start_point(config: Path, log: Path, *, gpus: Sequence[str], threads: int) -> PointProcess:
    """Starts `lehr train CONFIG` and appends its output to `log`.

    `gpus`: the numbers of the GPUs that it may use; empty if there are none. `threads`: of each of its ranks.
    """
    arguments = ["train", str(config)]

    def train(rank_info: RankInfo) -> NoReturn:
        from launcher.cli import main

        sys.argv = ["lehr", *arguments]
        main(arguments)
        raise SystemExit(0)

    start = rank_starter(train, preload="launcher.run.rank_main", command=lehr_command(*arguments))
    parent = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with log.open("ab", buffering=0) as output:
        # The signals wait until the forked process has handlers of its own.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:

                def begin() -> None:
                    limit_to(gpus=gpus, threads=threads)
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                    start(SINGLE_PROCESS)

                run_forked(begin, parent_pid=parent, out=output.fileno(), err=output.fileno())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return PointProcess(pid)
