"""lehr's own launch: starts the ranks of one machine as processes, and watches over them until all have ended.

No rank outlives the launch: each is the head of its own process group, which is killed when the rank or the run ends,
and the kernel kills it when this process is killed (launcher/processes/signals.py).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from launcher.exit_codes import DONE, FAILED, STOPPED_EARLY, USER_MISTAKE
from launcher.processes import failure_reports as reports
from launcher.processes.environment import Parent, Ranks, become_rank
from launcher.processes.hang_report import Silent, ask_for_stacks, explain_hang
from launcher.processes.rank_logs import Tee, last_lines, log_path
from launcher.processes.signals import STOP_SIGNALS
from settings.processes import die_with_parent

# After one rank has failed, the others have this long to say what they saw.
GRACE_SECONDS = 2.0
_STACKS_SECONDS = 0.5  # for ranks that are asked for their stacks
_POLL_SECONDS = 0.1
_SHOWN_LINES = 25


@dataclass
class _Rank:
    number: int
    pid: int
    report_fd: int
    log: IO[bytes]
    code: int | None = None
    report: reports.Report | None = None
    seconds: float = 0.0  # when it ended or failed, as near as is known


def run_ranks(start: Callable[[Ranks], NoReturn], *, count: int, log_folder: Path) -> int:
    """Fork `count` processes, each of which calls `start`, and return the run's exit code. Rank 0 has this console.

    `start` trains and exits, or replaces the process by another program; the rank's place is in its environment. The
    signals that ask to stop are passed on to the ranks; a second Ctrl-C kills them.
    """
    return _Launch(start, count=count, log_folder=log_folder).run()


class _Launch:
    def __init__(self, start: Callable[[Ranks], NoReturn], *, count: int, log_folder: Path) -> None:
        self._start_rank = start
        self._count = count
        self._log_folder = log_folder
        self._ranks: list[_Rank] = []
        self._selector = selectors.DefaultSelector()
        self._signals: list[signal.Signals] = []  # received, not yet passed on
        self._stopped_by: signal.Signals | None = None
        self._interrupts = 0
        self._silent: list[Silent] = []  # in a hang, ranks that did not say where they stand

    def run(self) -> int:
        kept = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        for number, handler in kept.items():
            if not (number == signal.SIGHUP and handler is signal.SIG_IGN):  # nohup
                signal.signal(number, self._receive)
        try:
            self._log_folder.mkdir(parents=True, exist_ok=True)
            self._start()
            self._watch()
            return self._verdict()
        finally:
            self._end()
            for number, handler in kept.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number))

    def _start(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(self._count)
            # A child holds the signals back until it has its handlers: none is lost, and none kills it at its start.
            held_back = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                for number in range(self._count):
                    self._ranks.append(self._start_one(number, listener))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, held_back)

    def _start_one(self, number: int, listener: socket.socket) -> _Rank:
        log = log_path(self._log_folder, number).open("ab", buffering=0)
        read_fd, write_fd = os.pipe()
        store_fd = listener.fileno() if number == 0 else None
        port = listener.getsockname()[1]
        parent = Parent(pid=os.getpid(), report_fd=write_fd, store_fd=store_fd)
        place = Ranks(number, number, self._count, self._count, 0, "127.0.0.1", port, "own", parent)
        out, err = self._console_pipes(log) if number == 0 else (log.fileno(), log.fileno())
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        pid = os.fork()
        if pid == 0:
            self._be_a_child(place, out, err, listener)
        for descriptor in {write_fd, out, err} - {log.fileno()}:
            os.close(descriptor)
        return _Rank(number, pid, read_fd, log)

    def _console_pipes(self, log: IO[bytes]) -> tuple[int, int]:
        """Ends to write to, for standard output and error; what arrives goes to the console and the log."""
        ends = []
        for console in (sys.stdout, sys.stderr):
            read_fd, write_fd = os.pipe()
            os.set_blocking(read_fd, False)
            self._selector.register(read_fd, selectors.EVENT_READ, Tee(getattr(console, "buffer", None), log))
            ends.append(write_fd)
        return ends[0], ends[1]

    def _be_a_child(self, place: Ranks, out: int, err: int, listener: socket.socket) -> NoReturn:
        """What a rank does before `start`; it never comes back to what the parent was doing."""
        code = FAILED
        try:
            os.setsid()
            assert place.parent is not None
            die_with_parent(place.parent.pid)
            for number in STOP_SIGNALS:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            columns = shutil.get_terminal_size().columns if place.rank == 0 and sys.stdout.isatty() else None
            become_rank(place, console_columns=columns)
            null = os.open(os.devnull, os.O_RDONLY)
            for descriptor, standard in ((null, 0), (out, 1), (err, 2)):
                os.dup2(descriptor, standard)
            sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
            if place.parent.store_fd is None:
                listener.close()
            for kept in (place.parent.report_fd, place.parent.store_fd):
                if kept is not None:
                    os.set_inheritable(kept, True)
            self._start_rank(place)
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else FAILED
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def _watch(self) -> None:
        """Until every rank has ended, by itself or, once one has failed, killed after the grace."""
        deadline: float | None = None
        while any(rank.code is None for rank in self._ranks):
            self._forward(_POLL_SECONDS)
            self._pass_signals_on()
            for rank in self._ranks:
                if rank.code is None:
                    self._look_at(rank)
            if deadline is None and any(rank.code not in (None, DONE, STOPPED_EARLY) for rank in self._ranks):
                deadline = time.monotonic() + GRACE_SECONDS
            if self._interrupts > 1:
                self._kill_all()
            elif deadline is not None and time.monotonic() > deadline:
                if self._hangs() and not self._silent:
                    self._hear_the_silent()
                self._kill_all()
        self._forward(0)

    def _hangs(self) -> bool:
        return any(rank.report is not None and rank.report.kind == "hang" for rank in self._ranks)

    def _hear_the_silent(self) -> None:
        """Have ranks that are to be killed write their stacks to their logs."""
        for rank in self._ranks:
            if rank.code is None:
                self._silent.append(ask_for_stacks(rank.number, rank.pid, log_path(self._log_folder, rank.number)))
        deadline = time.monotonic() + _STACKS_SECONDS
        while self._silent and time.monotonic() < deadline:
            self._forward(_POLL_SECONDS)

    def _look_at(self, rank: _Rank) -> None:
        """See whether the rank has ended. Its group is killed before it is waited for: until then its id is its own."""
        if os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return
        _kill_group(rank.pid)
        rank.code = os.waitstatus_to_exitcode(os.waitpid(rank.pid, 0)[1])
        rank.report = reports.receive(rank.report_fd)
        # Without a report the moment is only known to one look's precision.
        rank.seconds = rank.report.seconds if rank.report else time.time() - 5 * _POLL_SECONDS

    def _forward(self, timeout_seconds: float) -> None:
        if not self._selector.get_map():
            time.sleep(timeout_seconds)
        for key, _ in self._selector.select(timeout_seconds):
            piece = os.read(key.fd, 1 << 16)
            key.data.write(piece)
            if not piece:
                key.data.end()
                self._selector.unregister(key.fd)
                os.close(key.fd)

    def _pass_signals_on(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            self._stopped_by = self._stopped_by or number
            if number == signal.SIGINT:
                self._interrupts += 1
                if self._interrupts == 1:
                    print("\nstopping after this step; Ctrl-C again ends at once", file=sys.stderr, flush=True)
            for rank in self._ranks:
                if rank.code is None:
                    os.kill(rank.pid, number)

    def _kill_all(self) -> None:
        for rank in self._ranks:
            if rank.code is None:
                _kill_group(rank.pid)

    def _verdict(self) -> int:
        """The run's exit code; where it failed, the message that says why, on stderr."""
        failed = [rank for rank in self._ranks if rank.code not in (DONE, STOPPED_EARLY)]
        if not failed:
            return max(rank.code or DONE for rank in self._ranks)
        if self._interrupts > 1:
            return 128 + signal.SIGINT
        first = min(failed, key=lambda rank: rank.seconds)
        for rank in failed:
            if rank.report is not None and rank.report.traceback:
                with contextlib.suppress(OSError):
                    rank.log.write(rank.report.traceback.encode(errors="replace"))
        if self._stopped_by is not None and first.report is None and first.code == -self._stopped_by:
            print(f"ended by {self._stopped_by.name} before there was anything to save", file=sys.stderr)
            return 128 + self._stopped_by
        if first.report is not None and first.report.kind == "user":
            print(f"error: {first.report.message}", file=sys.stderr)
            return USER_MISTAKE
        hangs = first.report is not None and first.report.kind == "hang"
        print(self._explain_hang() if hangs else self._explain(first), file=sys.stderr, flush=True)
        return FAILED

    def _explain_hang(self) -> str:
        silent = {rank.number for rank in self._silent}
        spoke = {rank.number: rank.report for rank in self._ranks if rank.number not in silent}
        return explain_hang({number: report for number, report in spoke.items() if report is not None}, self._silent)

    def _explain(self, rank: _Rank) -> str:
        path = log_path(self._log_folder, rank.number)
        if rank.report is not None:
            headline, detail = f"failed: {rank.report.message}", rank.report.traceback
        elif rank.code is not None and rank.code < 0:
            memory = " (often: the machine was out of memory)" if rank.code == -signal.SIGKILL else ""
            headline = f"was killed by {signal.Signals(-rank.code).name}{memory}"
            detail = last_lines(path, _SHOWN_LINES)
        else:
            headline, detail = f"ended with exit code {rank.code}", last_lines(path, _SHOWN_LINES)
        shown = [f"  {line}" for line in detail.splitlines()[-_SHOWN_LINES:]]
        return "\n".join([f"rank {rank.number} {headline}", *shown, f"  its log: {path}"])

    def _end(self) -> None:
        self._kill_all()
        for rank in self._ranks:
            if rank.code is None:
                os.waitpid(rank.pid, 0)
            rank.log.close()
            os.close(rank.report_fd)
        for key in self._selector.get_map().values():  # a process that left its rank's group holds the other end
            os.close(key.fd)
        self._selector.close()


def _kill_group(pid: int) -> None:
    """Kill a rank that has not been waited for yet, and all that it started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)  # before it had made its group
