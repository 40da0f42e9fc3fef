"""lehr's own launcher: starts the ranks of one machine as processes, and watches them until all have ended.

No rank outlives the launcher: each is the head of its own process group, which is killed when the rank or the run ends,
and the kernel kills the rank when this process is killed (`settings.processes.die_with_parent`).
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from launcher.processes.hang_report import UnresponsiveRank, request_stacks
from launcher.processes.rank_info import RankInfo
from launcher.processes.rank_logs import OutputForwarder
from launcher.processes.rank_process import POLL_SECONDS, RankProcess, fork_rank
from launcher.processes.run_outcome import RunOutcome, run_outcome
from train.safety.stop_signals import STOP_SIGNALS, set_stop_handlers

# After one rank has failed, the others have this long to report what they saw.
GRACE_SECONDS = 2.0
_STACKS_SECONDS = 0.5  # for ranks that were sent the signal for their stacks


def run_ranks(
    start: Callable[[RankInfo], NoReturn],
    *,
    count: int,
    log_folder: Path,
    stopping: str = "stopping after this step; Ctrl-C again ends at once",
    stopped: str = " before there was anything to save",
) -> int:
    """Forks `count` processes, each of which calls `start`, and returns the run's exit code. Rank 0 has this console.

    `start` does its work and exits, or replaces the process by another program; the rank's place is in its environment.
    Stop signals are forwarded to the ranks; a second Ctrl-C kills them. `stopping` is printed at the first Ctrl-C, and
    `stopped` follows the signal's name if the signal has ended the ranks.
    """
    launcher = _LocalLauncher(start, count=count, log_folder=log_folder, stopping=stopping, stopped=stopped)
    outcome = launcher.run()
    if outcome.message:
        print(outcome.message, file=sys.stderr, flush=True)
    return outcome.exit_code


class _LocalLauncher:
    def __init__(
        self, start: Callable[[RankInfo], NoReturn], *, count: int, log_folder: Path, stopping: str, stopped: str
    ) -> None:
        self._start, self._stopping, self._stopped = start, stopping, stopped
        self._count = count
        self._log_folder = log_folder
        self._ranks: list[RankProcess] = []
        self._selector = selectors.DefaultSelector()
        self._received: list[signal.Signals] = []  # not forwarded yet
        self._stop_signal: signal.Signals | None = None  # the first one
        self._interrupts = 0
        self._unresponsive: list[UnresponsiveRank] = []  # in a hang, the ranks that did not report their position

    def run(self) -> RunOutcome:
        handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        set_stop_handlers(self._receive_signal)
        try:
            self._log_folder.mkdir(parents=True, exist_ok=True)
            self._start_ranks()
            self._watch()
            return run_outcome(
                self._ranks,
                stop_signal=self._stop_signal,
                stopped=self._stopped,
                killed_by_user=self._interrupts > 1,
                unresponsive=self._unresponsive,
            )
        finally:
            self._end()
            for number, handler in handlers.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def _receive_signal(self, number: int, frame: FrameType | None) -> None:
        self._received.append(signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number))

    def _start_ranks(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(self._count)
            # A rank blocks the signals until it has its handlers: none is lost, and none kills it while it starts.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                for rank in range(self._count):
                    process = fork_rank(
                        self._start,
                        rank,
                        count=self._count,
                        listener=listener,
                        log_folder=self._log_folder,
                        open_console_pipes=self._open_console_pipes,
                    )
                    self._ranks.append(process)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _open_console_pipes(self, log: IO[bytes]) -> tuple[int, int]:
        """Returns the write ends for standard output and error; what arrives goes to the console and the log."""
        write_fds = []
        for console in (sys.stdout, sys.stderr):
            read_fd, write_fd = os.pipe()
            os.set_blocking(read_fd, False)
            forwarder = OutputForwarder(getattr(console, "buffer", None), log)
            self._selector.register(read_fd, selectors.EVENT_READ, forwarder)
            write_fds.append(write_fd)
        return write_fds[0], write_fds[1]

    def _watch(self) -> None:
        """Returns when every rank has ended, by itself or, once one has failed, killed after the grace period."""
        deadline: float | None = None
        while any(rank.runs for rank in self._ranks):
            self._forward_output(POLL_SECONDS)
            self._forward_signals()
            for rank in self._ranks:
                rank.poll()
            if deadline is None and any(rank.failed for rank in self._ranks):
                deadline = time.monotonic() + GRACE_SECONDS
            if self._interrupts > 1:
                self._kill_all()
            elif deadline is not None and time.monotonic() > deadline:
                if self._hangs() and not self._unresponsive:
                    self._request_stacks()
                self._kill_all()
        self._forward_output(0)

    def _hangs(self) -> bool:
        return any(rank.report is not None and rank.report.kind == "hang" for rank in self._ranks)

    def _request_stacks(self) -> None:
        """Lets the ranks that will be killed write their stacks to their logs."""
        self._unresponsive = [request_stacks(rank.rank, rank.pid, rank.log_path) for rank in self._ranks if rank.runs]
        deadline = time.monotonic() + _STACKS_SECONDS
        while self._unresponsive and time.monotonic() < deadline:
            self._forward_output(POLL_SECONDS)

    def _forward_output(self, timeout_seconds: float) -> None:
        if not self._selector.get_map():
            time.sleep(timeout_seconds)
        for key, _ in self._selector.select(timeout_seconds):
            piece = os.read(key.fd, 1 << 16)
            key.data.write(piece)
            if not piece:
                key.data.end()
                self._selector.unregister(key.fd)
                os.close(key.fd)

    def _forward_signals(self) -> None:
        while self._received:
            number = self._received.pop(0)
            self._stop_signal = self._stop_signal or number
            if number == signal.SIGINT:
                self._interrupts += 1
                if self._interrupts == 1:
                    print(f"\n{self._stopping}", file=sys.stderr, flush=True)
            for rank in self._ranks:
                if rank.runs:
                    os.kill(rank.pid, number)

    def _kill_all(self) -> None:
        for rank in self._ranks:
            rank.kill()

    def _end(self) -> None:
        self._kill_all()
        for rank in self._ranks:
            rank.close()
        for key in self._selector.get_map().values():  # a process that left its rank's group holds the other end
            os.close(key.fd)
        self._selector.close()
