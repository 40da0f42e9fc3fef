"""A build on a Slurm cluster: datatrove's executor, each stage an array of jobs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from datatrove.executor import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from data.config import DataConfig, SlurmConfig
from data.pipeline.local_executor import TellsErrors, task_failure
from data.pipeline.progress import StoppedError, Watcher
from data.pipeline.stages import Stage
from data.pipeline.work_folder import WorkFolder, read_report, write_report
from settings import UserError


class SlurmExecutor(TellsErrors, SlurmPipelineExecutor):  # type: ignore[misc]
    """Submits a stage as an array of jobs that waits for the stage before it."""

    def __init__(
        self,
        pipeline: Sequence[PipelineStep],
        *,
        work: WorkFolder,
        stage: str,
        tasks: int,
        workers: int,
        slurm: SlurmConfig,
        depends: SlurmExecutor | None,
    ) -> None:
        if not slurm.partition:
            raise UserError(
                'data.slurm.partition is needed with data.executor = "slurm": name a partition of the cluster'
            )
        super().__init__(
            list(pipeline),
            tasks=tasks,
            workers=workers or -1,
            time=slurm.time,
            partition=slurm.partition,
            qos=slurm.qos,
            cpus_per_task=slurm.cpus_per_task,
            mem_per_cpu_gb=slurm.mem_per_cpu_gb,
            max_array_size=slurm.max_array_size,
            env_command=slurm.env_command or f'export PATH="{Path(sys.executable).parent}:$PATH"',
            sbatch_args=dict(slurm.sbatch),
            job_name=f"lehr-data-{stage}",
            logging_dir=str(work.logs(stage)),
            depends=depends,
        )
        self.work, self.stage = work, stage


def run_on_slurm(stages: Sequence[Stage], work: WorkFolder, config: DataConfig, watcher: Watcher, workers: int) -> None:
    """Submit all stages, each waiting for the one before, and watch them."""
    executors: list[SlurmExecutor] = []
    for stage in stages:
        depends = executors[-1] if executors else None
        executors.append(
            SlurmExecutor(
                stage.pipeline,
                work=work,
                stage=stage.name,
                tasks=stage.tasks,
                workers=config.workers,
                slurm=config.slurm,
                depends=depends,
            )
        )
    submit(executors, work)
    at_work = -1

    def look(number: int) -> bool:
        nonlocal at_work
        incomplete = executors[number].get_incomplete_ranks()
        if number != at_work:
            at_work = number
            watcher.enter(number, sorted(set(range(stages[number].tasks)).difference(incomplete)))
        return watcher.look(incomplete)

    watch(executors, work, look, config.slurm.poll_seconds)


def submit(executors: Sequence[SlurmExecutor], work: WorkFolder) -> None:
    """Submit what is not complete, unless jobs of an earlier call still wait or run."""
    record = work.path / "slurm_jobs.json"
    if record.exists() and _active(read_report(record)):
        return
    for executor in executors:
        for rank in executor.get_incomplete_ranks():
            work.error(executor.stage, rank).unlink(missing_ok=True)
    try:
        executors[-1].launch_job()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f'data.executor = "slurm": sbatch failed: {error}') from None
    jobs = [str(executor.job_id) for executor in executors if executor.job_id not in (None, -1)]
    write_report(record, jobs)


def watch(executors: Sequence[SlurmExecutor], work: WorkFolder, look: Callable[[int], bool], seconds: float) -> None:
    """Wait until every task is complete. `look` is told the number of the stage at work; True stops the waiting.

    Raises StoppedError (the jobs stay in the queue), or as LocalExecutor.run where a task failed.
    """
    jobs = read_report(work.path / "slurm_jobs.json")
    next_look = 0.0
    while True:
        incomplete = [executor.get_incomplete_ranks() for executor in executors]
        if not any(incomplete):
            return
        stage = next(number for number, ranks in enumerate(incomplete) if ranks)
        if look(stage):
            raise StoppedError
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + seconds
            if not _active(jobs) and executors[stage].get_incomplete_ranks():
                ranks = executors[stage].get_incomplete_ranks()
                raise task_failure(work, executors[stage].stage, ranks[0], "its job ended")
        time.sleep(min(seconds, 0.5))


def _active(jobs: Sequence[str]) -> bool:
    """Whether Slurm still knows one of the jobs as waiting or running."""
    if not jobs:
        return False
    command = ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(jobs)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f'data.executor = "slurm": squeue failed: {error}') from None
    return answer.returncode == 0 and bool(answer.stdout.strip())  # squeue fails where it has forgotten all of them
