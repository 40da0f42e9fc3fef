"""The submission of a run: its config is checked for the cluster's machine, copied, and submitted with a batch file."""

from __future__ import annotations

import datetime
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.processes.rank_info import rank_0_elsewhere
from launcher.run.config import RunConfig
from launcher.run.machine import GIB, machine_elsewhere
from launcher.run.preflight import workload
from launcher.run.start_checks import check_start
from launcher.slurm import scheduler
from launcher.slurm.batch_file import RUN_TEMPLATE, described, fill_in, options_of
from launcher.slurm.job_folder import JobFolder
from launcher.slurm.launch import LAUNCHES
from launcher.slurm.option_rules import check_limit, check_nodes
from launcher.slurm.site import SiteConfig
from parallel.layout import check_layout
from settings import UserError, to_yaml
from settings.files import output_of_user, write_json, write_text
from settings.paths import with_absolute_paths
from train.checkpoint.writer_lease import read_lease
from train.run_folder.folder import RunFolder
from train.run_folder.start_record import git_commit

RUN_LIST = "runs.txt"


@dataclass(frozen=True)
class Submission:
    """Runs that can be submitted: one as a job, or any number as an array. Their files are not written yet."""

    runs: tuple[RunConfig, ...]
    site: SiteConfig
    nodes: str  # of each run: a number, or a range such as 2-4
    is_array: bool
    folder: Path  # of the batch file
    script: str
    warnings: list[str]

    @property
    def script_path(self) -> Path:
        """The batch file."""
        return self.folder / "job.sbatch"

    @property
    def folders(self) -> list[JobFolder]:
        """The folders of the runs' jobs."""
        return [JobFolder(config.run.path) for config in self.runs]


def prepare(
    runs: Sequence[RunConfig],
    site: SiteConfig,
    *,
    nodes: str,
    options: Mapping[str, str],
    command: Sequence[str],
    array: Path | None = None,
) -> Submission:
    """Checks runs and renders their batch file. Writes nothing.

    `options`: of sbatch, without dashes, in place of the site's. `array`: the folder that the runs of an
    array share; None if there is one run. Raises UserError if a config has a mistake on the cluster's machine, and if a
    job of one of these runs lives.
    """
    check_nodes(nodes)
    check_limit({"time": site.time, **site.sbatch, **options}["time"], site.notice_seconds)
    runs = tuple(with_absolute_paths(config) for config in runs)
    warnings: dict[str, None] = {}
    for config in runs:
        check_no_job_lives(JobFolder(config.run.path))
        warnings |= dict.fromkeys(_check(config, site, nodes, waits="dependency" in options))
    folder = (JobFolder(runs[0].run.path).path if array is None else array / "slurm").absolute()
    name, output = (runs[0].run.name, "%j.out") if array is None else (array.name, "%A_%a.out")
    named = options_of(site, name=name, output=folder / output, nodes=nodes) | dict(options)
    if array is None:
        run = shlex.quote(str(runs[0].run.path))
    else:
        run = f'$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(folder / RUN_LIST))})'
        named["array"] = f"0-{len(runs) - 1}"
    lehr = shlex.quote(str(Path(sys.executable).with_name("lehr")))
    script = fill_in(RUN_TEMPLATE, site, named, launch=LAUNCHES[site.launch], run=run, lehr=lehr, **described(command))
    return Submission(runs, site, nodes, array is not None, folder, script, list(warnings))


def submit(submission: Submission, *, command: Sequence[str]) -> str:
    """Submits the runs' job, writes its files, and returns its number. Raises UserError, RunError.

    If sbatch refuses the job, nothing is written. The job is held until its files are: an attempt reads them first.
    """
    job = scheduler.submit(submission.script, "--hold")
    try:
        _write_files(submission)
        _write_records(submission, job, command)
        scheduler.release(job)
    except BaseException:
        scheduler.cancel(job)  # a held job would wait for ever
        raise
    return job


def _write_files(submission: Submission) -> None:
    with output_of_user(submission.folder):
        for config, folder in zip(submission.runs, submission.folders, strict=True):
            folder.path.mkdir(parents=True, exist_ok=True)
            write_text(folder.config, to_yaml(config))
            write_text(folder.site, to_yaml(submission.site))
        submission.folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{config.run.path}\n" for config in submission.runs)
        write_text(submission.folder / RUN_LIST, lines)
        write_text(submission.script_path, submission.script)


def _write_records(submission: Submission, job: str, command: Sequence[str]) -> None:
    record = {
        "command": shlex.join(command),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": git_commit(Path(__file__).parent),
        "nodes": submission.nodes,
        "max_failures": submission.site.max_failures,
    }
    with output_of_user(submission.folder):
        for number, folder in enumerate(submission.folders):
            own = f"{job}_{number}" if submission.is_array else job
            write_json(folder.record, {"job": own, **record, "output": str(submission.folder / f"{own}.out")})


def check_no_job_lives(folder: JobFolder) -> None:
    """Raises UserError if a job of this run waits or runs: two jobs would take the run over from each other.

    The jobs are the one that was submitted last, and that of the last start, whoever has submitted it.
    """
    jobs = {}
    if folder.record.exists():
        jobs[str(folder.submission()["job"])] = "was submitted for it"
    lease = read_lease(RunFolder(folder.run).checkpoints)
    if lease is not None and (match := re.match(r"job (\S+) attempt", lease.job)):
        jobs[match[1]] = "trains it"
    for job, does in jobs.items():
        state = scheduler.job_state(job)
        if state is not None and state.lives:
            raise UserError(
                f"job {job} {does} and is {state.state.lower()}: `lehr slurm cancel {folder.run}` ends it, "
                "or choose another run.name"
            )


def _check(config: RunConfig, site: SiteConfig, nodes: str, *, waits: bool) -> list[str]:
    """Checks the config as rank 0 will on the cluster, whatever this machine is. Returns warnings.

    `waits`: the job waits for another one, which may build its shards.
    """
    if config.train.device == "cuda" and not site.gpus_per_node:
        raise UserError("train.device = cuda, and the site file says gpus_per_node = 0; correct one of them")
    memory = site.gpu_memory_gib
    machine = machine_elsewhere(gpus=site.gpus_per_node, gpu_bytes=None if memory is None else int(memory * GIB))
    built = config.data.shards.exists() or not waits
    warnings = [] if built else [f"{config.data.shards} does not exist yet: the ranks check the run against it"]
    for count in dict.fromkeys(check_nodes(nodes)):
        local = site.ranks_per_node
        world_size = count * local
        place = rank_0_elsewhere(world_size=world_size, local_world_size=local)
        try:
            if built:
                warnings += check_start(config, machine, place).warnings
            else:
                check_layout(config.parallel, config.model, workload(config, world_size))
        except UserError as error:
            raise UserError(f"on {count} node{'s' if count > 1 else ''} of {local} ranks: {error}") from None
    return warnings
