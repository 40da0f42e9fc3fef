"""Processes with a time limit. That of a phase leads a process group, to which all that it starts belongs."""

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
    """The end of a process: its exit code, or the words `time limit`."""

    code: int | str
    seconds: float
    log: Path

    def tail(self, characters: int = 600) -> str:
        """Returns the end of its output."""
        return self.log.read_text(errors="replace")[-characters:]


def start(
    command: Sequence[object], log: Path, env: Mapping[str, str] | None = None, *, new_group: bool = False
) -> subprocess.Popen[bytes]:
    """Starts a command at the root of the tree, its output in `log`, with some variables changed.

    It can import what stands in benchmarks/. With `new_group` it leads a process group, which is killed as a whole;
    otherwise it belongs to this process's group.
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
            start_new_session=new_group,
        )


def wait(process: subprocess.Popen[bytes], limit_seconds: float) -> int | str:
    """Returns the exit code, or `time limit`. What the process or its group has left running is killed either way."""
    try:
        code: int | str = process.wait(max(limit_seconds, 0))
    except subprocess.TimeoutExpired:
        code = TIME_LIMIT
    finally:
        kill(process)
    return code


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills the process, and the group that it leads."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def run(
    command: Sequence[object],
    log: Path,
    limit_seconds: float,
    env: Mapping[str, str] | None = None,
    *,
    new_group: bool = False,
) -> Ended:
    """Runs a command to its end or to its limit."""
    began = time.monotonic()
    code = wait(start(command, log, env, new_group=new_group), limit_seconds)
    return Ended(code, time.monotonic() - began, log)


def lehr(*words: object) -> list[object]:
    """Returns the command `lehr WORDS` of this tree, which need not be installed."""
    return [sys.executable, "-m", "launcher", *words]
