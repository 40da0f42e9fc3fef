"""Launches of the `lehr train` command for the soak, forked from one process that has already imported all modules.

Each launch is the real command: it has its own processes, its own launch of ranks, and the command's exit code. Only
gradients can be spoilt: an engine in front of the real one makes the loss of one data rank not finite on some steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401  (so that forked launches have it imported)
import psutil

import launcher.run.rank_main
from launcher.cli import main
from parallel.chunk import MicroBatch
from parallel.engines.engine import StepResult
from train.loop import Run
from train.metrics.jsonl import read_metrics

_POLL_SECONDS = 0.01


class SpoilingEngine:
    """The real engine, except that the last data rank's loss is not finite at the 0-based steps `not_finite`."""

    def __init__(self, run: Run, not_finite: frozenset[int]) -> None:
        self._run, self._engine, self._not_finite = run, run.engine, not_finite

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def train_step(self, micro_batches: Sequence[MicroBatch], *, lr: float) -> StepResult:
        data = self._run.mesh.data
        if self._run.state.step in self._not_finite and data.rank == data.size - 1:
            first, *others = micro_batches
            # A weight of NaN is not above 0: its tokens would not count, and their number depends on the layout.
            micro_batches = [dataclasses.replace(first, weights_BT=first.weights_BT * float("inf")), *others]
        return self._engine.train_step(micro_batches, lr=lr)


def spoil(not_finite: frozenset[int]) -> None:
    """Gives the spoiling engine to every later run of this process and of those forked from it."""
    build_run = launcher.run.rank_main.build_run

    def build(*arguments: Any, **more: Any) -> Run:
        run = build_run(*arguments, **more)
        run.engine = SpoilingEngine(run, not_finite)  # type: ignore[assignment]
        return run

    launcher.run.rank_main.build_run = build


class Deadline:
    """A limit on a wait, in seconds. Time in which this process itself was paused does not count."""

    def __init__(self, seconds: float) -> None:
        self._left, self._last_call = seconds, time.monotonic()

    def is_over(self) -> bool:
        """Returns whether the time is up. Must be called at least once a second, or the rest does not count."""
        now = time.monotonic()
        self._left -= min(now - self._last_call, 1.0)
        self._last_call = now
        return self._left < 0


class Launch:
    """One `lehr train` command, running or ended."""

    def __init__(self, arguments: Sequence[str], run_folder: Path, log: Path) -> None:
        self.run_folder = run_folder
        self.log = log
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._be_the_command(arguments)
        self._process = psutil.Process(self.pid)

    def _be_the_command(self, arguments: Sequence[str]) -> None:
        code = 1
        try:
            os.setsid()
            descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for standard in (1, 2):
                os.dup2(descriptor, standard)
            sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
            main(["train", *arguments])
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def ranks(self) -> list[int]:
        """Returns the process ids by rank: the forked ones, or the command itself if it trains alone."""
        children = sorted(child.pid for child in self._process.children())
        return children or [self.pid]

    def send(self, number: int, pids: Sequence[int] | None = None) -> None:
        """Sends a signal to the command, or to some of its processes."""
        for pid in pids or [self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def ended(self) -> bool:
        """Returns whether the command has ended. `code` is then its exit code, negative if a signal ended it."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait_end(self, seconds: float) -> int:
        """Waits for the end and returns the exit code. Kills it and raises TimeoutError if it takes too long."""
        deadline = Deadline(seconds)
        while not self.ended():
            if deadline.is_over():
                self.kill_all()
                raise TimeoutError(f"no end after {seconds:g} s:\n{self.text()[-3000:]}")
            time.sleep(_POLL_SECONDS)
        assert self.code is not None
        return self.code

    def wait_step(self, step: int, seconds: float) -> bool:
        """Waits until this many steps are taken. Returns False if the command ended before."""
        deadline = Deadline(seconds)
        while last_step(self.run_folder) < step:
            if self.ended():
                return False
            if deadline.is_over():
                self.kill_all()
                raise TimeoutError(f"step {step} not reached after {seconds:g} s:\n{self.text()[-3000:]}")
            time.sleep(_POLL_SECONDS)
        return True

    def kill_all(self) -> None:
        """Kills the command. The kernel ends its ranks with it; raises AssertionError if one is left."""
        ranks = self._process.children() if not self.ended() else []
        self.send(signal.SIGKILL)
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        _, left = psutil.wait_procs(ranks, timeout=10)
        assert not left, f"ranks outlive their launch: {left}"

    def text(self) -> str:
        """Returns the text that the command has written to the console."""
        return self.log.read_text(errors="replace")


def last_step(run_folder: Path) -> int:
    """Returns the last step in metrics.jsonl, 0 before the first."""
    try:
        steps = read_metrics(run_folder / "metrics.jsonl")
    except FileNotFoundError:
        return 0
    return int(steps[-1]["step"]) if steps else 0
