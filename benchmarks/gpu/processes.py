"""Processes with a time limit, each in a process group of its own, which is killed as a whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpu.context import ROOT

TIME_LIMIT = "time limit"


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or the words `time limit`."""

    code: int | str
    seconds: float
    log: Path

    def tail(self, characters: int = 600) -> str:
        """Returns the end of its output."""
        return self.log.read_text(errors="replace")[-characters:]


def start(command: Sequence[object], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts a command at the root of the tree, its output in `log`, with some variables changed.

    It imports the modules of benchmarks/ too: as packages, so that none hides a package of its name.
    """
    python_path = os.pathsep.join([str(ROOT / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log.open("w") as file:
        return subprocess.Popen(
            [*map(str, command)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": python_path, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait(process: subprocess.Popen[bytes], limit_seconds: float) -> int | str:
    """Returns the exit code, or `time limit`. What the process has left running is killed either way."""
    try:
        code: int | str = process.wait(max(limit_seconds, 0))
    except subprocess.TimeoutExpired:
        code = TIME_LIMIT
    kill(process)
    return code


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills the process and its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(command: Sequence[object], log: Path, limit_seconds: float, env: Mapping[str, str] | None = None) -> Ended:
    """Runs a command to its end or to its limit."""
    began = time.monotonic()
    code = wait(start(command, log, env), limit_seconds)
    return Ended(code, time.monotonic() - began, log)


def lehr(*words: object) -> list[object]:
    """Returns the command `lehr WORDS` of this tree, which need not be installed."""
    return [sys.executable, "-m", "launcher", *words]
