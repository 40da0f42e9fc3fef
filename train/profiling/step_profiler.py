"""The profiler of a run: torch.profiler over the steps of `train.profile`, its traces in the run folder.

    runs/NAME/profile/steps-00000010-00000012/rank-00000.pt.trace.json.gz   Chrome's trace format
                                              rank-00000.memory.json        a snapshot of CUDA's memory
                                              rank-00000.memory.html        the page that torch draws of it

Each file is prepared in a hidden folder and takes its name by one rename. TensorBoard's profile plugin looks for files
of these names, and for the span `ProfilerStep#10` that every profiled step has.
"""

from __future__ import annotations

import gzip
import os
import shutil
import sys
from pathlib import Path

import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile, record_function

from parallel.mesh import Mesh
from settings.files import flush_folder
from train.config import ProfileConfig
from train.metrics.step_timer import StepTimer
from train.profiling.memory_snapshot import (
    start_memory_history,
    stop_memory_history,
    take_memory_snapshot,
    write_memory_snapshot,
)
from train.safety.watchdog import SAVE_TIME_FACTOR, Watchdog


class StepProfiler:
    """Profiles the steps of `config`; without one, every method returns at once.

    All ranks count the profiled steps, so that all know when some of them write traces. A run that resumes within the
    profiled steps profiles the rest of them.
    """

    def __init__(self, config: ProfileConfig | None, folder: Path, mesh: Mesh, *, steps_taken: int = 0) -> None:
        """`folder` is the run folder's profile/. The run resumes after `steps_taken` steps."""
        self._config = config
        self._folder = folder
        self._mesh = mesh
        self._first_step = 0  # of this process's profile
        self._steps_left = 0
        self._trace: profile | None = None
        self._step_span: record_function | None = None
        if config is not None and config.last_step <= steps_taken:
            self._config = None
            if mesh.rank == 0 and not _has_traces(folder):
                print(
                    f"warning: train.profile is of steps {config.first_step} to {config.last_step}, and the run goes "
                    f"on after step {steps_taken}: nothing is profiled",
                    file=sys.stderr,
                )

    def begin_step(self, number: int) -> None:
        """Begins the span of step `number`, counted from 1, if it is profiled; and the profile at its first step."""
        config = self._config
        if config is None:
            return
        if not self._steps_left and config.first_step <= number <= config.last_step:
            self._first_step, self._steps_left = number, config.last_step - number + 1
            if self._mesh.rank in config.ranks:
                self._trace = self._start(config)
        if self._trace is not None:
            self._step_span = record_function(f"ProfilerStep#{number}")
            self._step_span.__enter__()

    def end_step(self, watchdog: Watchdog, step_timer: StepTimer) -> None:
        """Ends the span of the step. After the last profiled step it writes the traces and is a collective."""
        config = self._config
        if config is None or not self._steps_left:
            return
        self._end_span()
        self._steps_left -= 1
        if self._steps_left:
            return
        watchdog.set_phase("profile", "being written", timeout_factor=SAVE_TIME_FACTOR)
        with step_timer.excluded():
            if self._trace is not None:
                self._write(self._trace, config)
            dist.barrier()  # the other ranks wait here, within this phase, and not in the next step
        self._config = self._trace = None

    def close(self) -> None:
        """Ends a profile whose steps were not completed: nothing is written of it."""
        if self._steps_left and self._mesh.rank == 0:
            print("the run ends within the steps of train.profile: no trace is written", file=sys.stderr)
        if self._trace is not None and self._config is not None:
            self._end_span()
            self._trace.stop()
            if self._config.memory:
                stop_memory_history()
        self._config = self._trace = None
        self._steps_left = 0

    def _start(self, config: ProfileConfig) -> profile:
        activities = [ProfilerActivity.CPU]
        if self._mesh.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        if config.memory:
            start_memory_history()
        trace = profile(activities=activities, record_shapes=True)
        trace.start()
        return trace

    def _end_span(self) -> None:
        if self._step_span is not None:
            self._step_span.__exit__(None, None, None)
            self._step_span = None

    def _write(self, trace: profile, config: ProfileConfig) -> None:
        """Ends the profile and writes this rank's files. If the disk refuses them, the run goes on without."""
        trace.stop()
        snapshot = take_memory_snapshot() if config.memory else None
        if config.memory:
            stop_memory_history()
        target = self._folder / f"steps-{self._first_step:08d}-{config.last_step:08d}"
        rank = f"rank-{self._mesh.rank:05d}"
        staging = target / f".{rank}.partial"
        try:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            trace.export_chrome_trace(str(staging / "trace.json"))
            _compress(staging / "trace.json", staging / f"{rank}.pt.trace.json.gz")
            if snapshot is not None:
                json_path, html_path = staging / f"{rank}.memory.json", staging / f"{rank}.memory.html"
                write_memory_snapshot(snapshot, json_path=json_path, html_path=html_path)
            for path in sorted(staging.iterdir()):
                _flush(path)
                path.replace(target / path.name)
            flush_folder(target)
        except OSError as error:
            reason = f"{error.filename or target}: {error.strerror or error}"
            print(f"warning: {rank} writes no trace: {reason}; the run goes on", file=sys.stderr)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _has_traces(folder: Path) -> bool:
    return any(folder.glob("steps-*/rank-*.pt.trace.json.gz"))


def _compress(source: Path, target: Path) -> None:
    with source.open("rb") as plain, gzip.open(target, "wb", compresslevel=6) as compressed:
        shutil.copyfileobj(plain, compressed, length=2**20)
    source.unlink()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
