"""The executor of a build on this machine: datatrove's, with one process for each task.

datatrove's own local executor runs a pool behind a manager process. A killed worker leaves it waiting for ever, a
killed parent leaves the manager behind, and the caller cannot watch its tasks. This executor forks a process for each
task, which the kernel ends together with its parent, and calls back several times a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from data.config import DataConfig
from data.pipeline.progress import ProgressMonitor, StoppedError
from data.pipeline.stages import BuildStage
from data.pipeline.task_errors import error_record, task_error
from data.pipeline.work_folder import WorkFolder
from settings.processes import die_with_parent

_SECONDS_BETWEEN_POLLS = 0.1
_SECONDS_TO_END = 5.0


class LocalExecutor(LocalPipelineExecutor):  # type: ignore[misc]
    """Runs a stage's tasks on this machine, `workers` at a time."""

    def __init__(
        self, pipeline: Sequence[PipelineStep], *, work: WorkFolder, stage: str, tasks: int, workers: int
    ) -> None:
        super().__init__(list(pipeline), tasks=tasks, workers=workers, logging_dir=str(work.logs(stage)))
        self.work, self.stage = work, stage
        self._errors: dict[int, Connection] = {}

    def run(self, poll: Callable[[Sequence[int]], bool] = lambda running: False) -> None:
        """Run the tasks that are not complete.

        `poll` receives the running tasks' ranks several times a second, and stops all tasks by returning True. Raises
        StoppedError if it did, UserError for a user's mistake that a task met, and RuntimeError if a task failed.
        """
        waiting = self.get_incomplete_ranks()
        running: dict[int, BaseProcess] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    rank = waiting.pop(0)
                    running[rank] = self._start(rank)
                wait([process.sentinel for process in running.values()], timeout=_SECONDS_BETWEEN_POLLS)
                if poll(list(running)):
                    raise StoppedError
                for rank in [rank for rank, process in running.items() if not process.is_alive()]:
                    process = running.pop(rank)
                    process.join()
                    if process.exitcode:
                        record = _receive(self._errors[rank])
                        raise task_error(record, self.work, self.stage, rank, f"exit code {process.exitcode}")
                    self._errors.pop(rank).close()
        finally:
            _end(running.values())

    def _start(self, rank: int) -> BaseProcess:
        context = multiprocessing.get_context("fork")
        self._errors[rank], sender = context.Pipe(duplex=False)
        process = context.Process(target=self._task, args=(rank, os.getpid(), sender))
        process.start()
        sender.close()
        return process

    def _task(self, rank: int, parent: int, errors: Connection) -> None:
        """Run one task in its own process, and send its error through a pipe, which no full disk can stop."""
        try:
            self._run_in_process(rank, parent)
        except BaseException as error:
            errors.send(error_record(error))
            raise

    def _run_in_process(self, rank: int, parent: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        die_with_parent(parent)
        output = self.work.logs(self.stage) / "output"
        output.mkdir(parents=True, exist_ok=True)
        with (output / f"{rank:05d}.log").open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        self._run_for_rank(rank, local_rank=1)  # 0 would log to the console too


def _receive(errors: Connection) -> dict[str, Any] | None:
    """Return the error record that a task sent before it ended, or None if it was killed."""
    try:
        record: dict[str, Any] = errors.recv()
    except EOFError:
        return None
    return record


def _end(processes: Iterable[BaseProcess]) -> None:
    """Terminate the processes, and kill those that still run after five seconds."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def run_here(
    stages: Sequence[BuildStage], work: WorkFolder, config: DataConfig, monitor: ProgressMonitor, workers: int
) -> None:
    """Run one stage after the other, on this machine."""
    for number, stage in enumerate(stages):
        executor = LocalExecutor(stage.pipeline, work=work, stage=stage.name, tasks=stage.tasks, workers=workers)
        monitor.start_stage(number, sorted(set(range(stage.tasks)).difference(executor.get_incomplete_ranks())))
        executor.run(monitor.poll)
