"""`lehr` as a process that is forked from one which has done the imports, with the methods of subprocess.Popen.

The imports of a run take over three seconds of computing, and most tests that start `lehr` have another subject.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, NoReturn, TextIO

_started: weakref.WeakSet[ForkedLehr] = weakref.WeakSet()


def process_name() -> str:
    """Returns the name, in /proc/PID/comm, of each `lehr` that this test process has forked, and of its ranks.

    Their command line is that of the server from which they were forked.
    """
    return f"lehr-{os.getpid()}"


def running_processes() -> list[int]:
    """Returns the numbers of the processes of that name which have not ended."""
    from settings.processes import process_state

    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            pid = int(path.parent.name)
            state = process_state(pid) if path.read_text() == f"{process_name()}\n" else None
            if state is not None and state.letter not in "ZX":
                found.append(pid)
    return found


class ForkedLehr:
    """A running `lehr`, the head of a process group; its outputs are pipes of text.

    `before`: Python code that the process runs first, for instance to replace a function of lehr.
    """

    def __init__(
        self,
        context: ForkServerContext,
        arguments: Sequence[str],
        *,
        before: str = "",
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.args = ["lehr", *arguments]
        (out, out_end), (err, err_end) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        settings = (process_name(), str(cwd or Path.cwd()), {**os.environ, **(env or {})})
        self._process = context.Process(target=_run, args=(self.args, before, out_end, err_end, *settings))
        self._process.start()
        self.pid: int = self._process.pid or 0
        self.stdout, self.stderr = (open(os.dup(end.fileno()), errors="replace") for end in (out, err))  # noqa: SIM115
        for connection in (out, out_end, err, err_end):
            connection.close()
        self._readers: list[_Reader] = []
        _started.add(self)

    @property
    def returncode(self) -> int | None:
        """The exit code; minus the signal's number if a signal ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Returns the exit code; None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end, and returns the exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def read_outputs(self) -> None:
        """Begins to read both outputs: a pipe that is full would stop the process."""
        if not self._readers:
            self._readers = [_Reader(stream) for stream in (self.stdout, self.stderr)]

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the process, reads both outputs to their ends, and returns them. Raises subprocess.TimeoutExpired.

        An output ends when no process can write to it any more.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self.read_outputs()
        self.wait(timeout)
        for reader in self._readers:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        out, err = ("".join(reader.lines) for reader in self._readers)
        return out, err

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Asks the process to end, with SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kills the process, and not those that it has started."""
        self.send_signal(signal.SIGKILL)

    def kill_group(self) -> None:
        """Kills all processes of its group, also those that it has left running."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def __enter__(self) -> ForkedLehr:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        """Waits for the end; after an exception it kills the process first."""
        if kind is not None:
            self.kill_group()
        self.wait()


class _Reader(threading.Thread):
    """Reads a stream to its end, and closes it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(daemon=True)
        self.lines: list[str] = []
        self._stream = stream
        self.start()

    def run(self) -> None:
        with self._stream:
            self.lines.extend(self._stream)


@atexit.register
def _kill_all() -> None:
    """Kills what tests have left running; multiprocessing would wait for it."""
    for process in _started:
        if process.poll() is None:
            process.kill_group()


def _run(
    command: list[str], before: str, out: Connection, err: Connection, name: str, cwd: str, environment: dict[str, str]
) -> NoReturn:
    """Runs a `lehr` command in this process, set up as a new interpreter would be, and ends the process."""
    os.setsid()
    Path("/proc/self/comm").write_text(name)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, standard in ((null, 0), (out.fileno(), 1), (err.fileno(), 2)):
        os.dup2(descriptor, standard)
    os.close(null)
    out.close()
    err.close()
    sys.stdin, sys.stdout, sys.stderr = (open(n, "rww"[n], closefd=False) for n in range(3))  # noqa: SIM115
    sys.argv = command
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # the server may have looked it up, in another environment
    code = 0
    try:
        exec(before, {"__name__": "before"})
        from launcher.__main__ import main

        main()
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
