"""A build on this machine: datatrove's executor with one process a task.

datatrove's own local executor runs a pool behind a manager process: a killed worker leaves it waiting for ever, a
killed parent leaves the manager behind, and nothing can look in while it works. This one forks a process for each
task, which the kernel ends together with its parent, and lets the caller look in several times a second.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from data.config import DataConfig
from data.pipeline.progress import StoppedError, Watcher
from data.pipeline.stages import Stage
from data.pipeline.work_folder import WorkFolder, write_report
from settings import UserError
from settings.processes import die_with_parent

_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_END = 5.0


class TellsErrors:
    """Leaves a note of what ended a task, for whoever started it."""

    work: WorkFolder
    stage: str

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> object:
        try:
            return super()._run_for_rank(rank, local_rank, node_rank)  # type: ignore[misc]
        except BaseException as error:
            note = {
                "message": str(error),
                "kind": type(error).__name__,
                "of_the_user": isinstance(error, UserError),
                "errno": getattr(error, "errno", None),
            }
            write_report(self.work.error(self.stage, rank), note)
            raise


class LocalExecutor(TellsErrors, LocalPipelineExecutor):  # type: ignore[misc]
    """Runs a stage's tasks on this machine, `workers` at a time."""

    def __init__(
        self, pipeline: Sequence[PipelineStep], *, work: WorkFolder, stage: str, tasks: int, workers: int
    ) -> None:
        super().__init__(list(pipeline), tasks=tasks, workers=workers, logging_dir=str(work.logs(stage)))
        self.work, self.stage = work, stage

    def run(self, look: Callable[[Sequence[int]], bool] = lambda running: False) -> None:
        """Run what is not complete. `look` is told the running tasks' ranks several times a second; True stops all.

        Raises StoppedError, UserError where a task met a mistake of the user's, RuntimeError where one failed.
        """
        waiting = self.get_incomplete_ranks()
        running: dict[int, BaseProcess] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    rank = waiting.pop(0)
                    running[rank] = self._start(rank)
                wait([process.sentinel for process in running.values()], timeout=_SECONDS_BETWEEN_LOOKS)
                if look(list(running)):
                    raise StoppedError
                for rank in [rank for rank, process in running.items() if not process.is_alive()]:
                    process = running.pop(rank)
                    process.join()
                    if process.exitcode:
                        raise task_failure(self.work, self.stage, rank, f"exit code {process.exitcode}")
        finally:
            _end(running.values())

    def _start(self, rank: int) -> BaseProcess:
        self.work.error(self.stage, rank).unlink(missing_ok=True)
        process = multiprocessing.get_context("fork").Process(target=self._task, args=(rank, os.getpid()))
        process.start()
        return process

    def _task(self, rank: int, parent: int) -> None:
        """In the new process."""
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


def task_failure(work: WorkFolder, stage: str, rank: int, what: str) -> Exception:
    """The error to raise for a task that ended without being complete."""
    logs = f"see {work.logs(stage)}"
    try:
        note = json.loads(work.error(stage, rank).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return RuntimeError(f"task {rank} of stage {stage} ended without a word ({what}); out of memory? {logs}")
    if note["of_the_user"]:
        return UserError(note["message"])
    if note["errno"] is not None:
        return OSError(note["errno"], note["message"])
    return RuntimeError(f"task {rank} of stage {stage} failed: {note['kind']}: {note['message']}; {logs}")


def _end(processes: Iterable[BaseProcess]) -> None:
    processes = list(processes)
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def run_here(stages: Sequence[Stage], work: WorkFolder, config: DataConfig, watcher: Watcher, workers: int) -> None:
    """One stage after the other, on this machine."""
    for number, stage in enumerate(stages):
        executor = LocalExecutor(stage.pipeline, work=work, stage=stage.name, tasks=stage.tasks, workers=workers)
        watcher.enter(number, sorted(set(range(stage.tasks)).difference(executor.get_incomplete_ranks())))
        executor.run(watcher.look)
