"""The executor of a build on a Slurm cluster: datatrove's, with a job array for each stage."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from datatrove.executor import SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from data.config import DataConfig, SlurmConfig
from data.pipeline.progress import ProgressMonitor, StoppedError
from data.pipeline.stages import BuildStage
from data.pipeline.task_errors import TaskErrorMixin, read_task_error
from data.pipeline.work_folder import WorkFolder, read_report, write_report
from settings import UserError


class SlurmExecutor(TaskErrorMixin, SlurmPipelineExecutor):  # type: ignore[misc]
    """Submits a stage as a job array that waits for the stage before it."""

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


def run_on_slurm(
    stages: Sequence[BuildStage], work: WorkFolder, config: DataConfig, monitor: ProgressMonitor, workers: int
) -> None:
    """Submit all stages, each of which waits for the one before, and wait until they are complete."""
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
    current = -1

    def poll(number: int) -> bool:
        nonlocal current
        incomplete = executors[number].get_incomplete_ranks()
        if number != current:
            current = number
            monitor.start_stage(number, sorted(set(range(stages[number].tasks)).difference(incomplete)))
        return monitor.poll(incomplete)

    wait(executors, work, poll, config.slurm.poll_seconds)


def submit(executors: Sequence[SlurmExecutor], work: WorkFolder) -> None:
    """Submit the tasks that are not complete, unless jobs of an earlier call still wait or run.

    Raises UserError if sbatch fails.
    """
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


def wait(executors: Sequence[SlurmExecutor], work: WorkFolder, poll: Callable[[int], bool], seconds: float) -> None:
    """Wait until every task is complete.

    `poll` receives the number of the running stage, and ends the waiting by returning True: StoppedError is raised, and
    the jobs stay in the queue. If a task failed, the errors are those of LocalExecutor.run. squeue is called every
    `seconds`.
    """
    jobs = read_report(work.path / "slurm_jobs.json")
    next_query = 0.0
    while True:
        incomplete = [executor.get_incomplete_ranks() for executor in executors]
        if not any(incomplete):
            return
        stage = next(number for number, ranks in enumerate(incomplete) if ranks)
        if poll(stage):
            raise StoppedError
        if time.monotonic() >= next_query:
            next_query = time.monotonic() + seconds
            if not _active(jobs) and executors[stage].get_incomplete_ranks():
                ranks = executors[stage].get_incomplete_ranks()
                raise read_task_error(work, executors[stage].stage, ranks[0], "its job ended")
        time.sleep(min(seconds, 0.5))


def _active(jobs: Sequence[str]) -> bool:
    """Return whether Slurm lists one of the jobs as waiting or running."""
    if not jobs:
        return False
    command = ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(jobs)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f'data.executor = "slurm": squeue failed: {error}') from None
    return answer.returncode == 0 and bool(answer.stdout.strip())  # squeue fails if it knows none of the jobs
