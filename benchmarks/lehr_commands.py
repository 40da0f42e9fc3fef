"""The lehr commands of a proof, one after the other: each with as many threads as given, and stopped with the proof."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

from launcher.exit_codes import STOPPED_EARLY


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    arguments: Sequence[str]
    code: int
    stopped: bool  # by a signal
    cpu_seconds: float  # of the command and of all processes that it started

    def check(self) -> None:
        """Exits with code 75 if the command was stopped, and with 1 if it failed."""
        if self.stopped:
            _exit_stopped()
        if self.code != 0:
            raise SystemExit(f"lehr {' '.join(self.arguments)} ended with exit code {self.code}")


class LehrCommands:
    """Runs lehr commands. Within `with`, SIGTERM and Ctrl-C stop the command that runs, and none starts after it.

    SIGTERM is passed on to the command. Ctrl-C is not, since the terminal sends it to both.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._signals: list[int] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._handlers = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def run(self, arguments: Sequence[str], *, threads: int = 1) -> Ended:
        """Runs `lehr ARGUMENTS` to its end, with so many threads a process.

        Exits with code 75 if a signal has come before.
        """
        if self._signals:
            _exit_stopped()
        command = [sys.executable, "-m", "launcher", *arguments]
        self._child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        if self._signals:  # it came meanwhile
            self._child.terminate()
        _, status, usage = os.wait4(self._child.pid, 0)
        code = self._child.returncode = os.waitstatus_to_exitcode(status)
        self._child = None
        stopped = code == STOPPED_EARLY or (code != 0 and bool(self._signals))
        return Ended(arguments, code, stopped, usage.ru_utime + usage.ru_stime)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)
        if number == signal.SIGTERM and self._child is not None:
            self._child.send_signal(number)


def _exit_stopped() -> None:
    print("stopped; the same command goes on from here", file=sys.stderr)
    raise SystemExit(STOPPED_EARLY)
