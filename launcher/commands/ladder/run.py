"""`lehr ladder run`: trains the rungs of a ladder, or submits that as a job."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.ladder.arguments import LadderArgument
from launcher.commands.point_outcomes import exit_by_outcome
from launcher.processes.environment import check_environment, one_openmp_thread, read_rank_info
from settings import UserError

if TYPE_CHECKING:
    from launcher.sweep.points import Point


def run_command(
    ladder: LadderArgument,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; by default as many as cores or GPUs allow.")
    ] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit the runs as a Slurm array instead.")] = False,
    site: Annotated[Path | None, typer.Option(metavar="FILE", help="The site file, for --slurm.")] = None,
    time: Annotated[str | None, typer.Option(metavar="HH:MM:SS", help="Time limit, for --slurm.")] = None,
) -> None:
    """Train the rungs of a ladder that are not finished yet.

    If it was stopped or killed, run it again: finished runs are not trained again, and begun ones resume. With --slurm,
    each run is a task of an array, and the same command without it gathers the finished ones. Exit codes: 0: every run
    is done, or submitted. 1: some runs failed or diverged; each is named. 2: a mistake in the ladder. 75: stopped.
    """
    if read_rank_info().launcher != "none":
        raise UserError("`lehr ladder run` starts its runs itself: call it once, without torchrun or srun")
    if not slurm and (site is not None or time is not None):
        raise UserError(f"--{'time' if site is None else 'site'} is for --slurm")
    if slurm and jobs is not None:
        raise UserError("--jobs is for runs on this machine; with --slurm each run is a task of its own")
    check_environment()
    with one_openmp_thread():
        from launcher.ladder.gather import gather_finished
        from launcher.ladder.ladder_file import read_ladder
        from launcher.run.machine import read_machine
        from launcher.sweep.train_points import check_points, train_points, write_configs

        found = read_ladder(ladder)
        planned = found.sweep()
        known = gather_finished(planned.points, found.records)
        waiting = [point for point in planned.points if point.digest not in known]
        if slurm and waiting:
            _submit(waiting, planned.folder, site, time)
            return
        machine = read_machine()
        check_points(waiting, machine)
        write_configs(planned)
        outcome = train_points(planned, known, found.records, machine, jobs) if waiting else None
    known = known if outcome is None else outcome.records
    done = sum(point.digest in known for point in planned.points)
    print(f"{done} of {len(planned.points)} runs are finished: {found.records}")
    exit_by_outcome(planned.points, known, outcome)
    print(f"next: lehr ladder fit {ladder}")


def _submit(points: Sequence[Point], folder: Path, site: Path | None, time: str | None) -> None:
    """Submits the runs as one array."""
    from launcher.commands.slurm.job_options import sbatch_options
    from launcher.slurm.site import read_site
    from launcher.slurm.submit import prepare, submit

    command = ["lehr", *sys.argv[1:]]
    runs = [point.config for point in points]
    options = sbatch_options([], time, [])
    submission = prepare(runs, read_site(site), nodes="1", options=options, command=command, array=folder)
    for warning in submission.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    job = submit(submission, command=command)
    print(f"job {job} is submitted for {len(runs)} runs in {folder}")
    print("when it is done, the same command without --slurm gathers the losses")
