"""`lehr slurm submit`: one command from a config to a job that starts again by itself until the run is done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from launcher.commands.arguments import OverridesArgument, RunConfigArgument
from launcher.commands.slurm.job_options import AfterOption, DryRunOption, QuietOption, SbatchOption, sbatch_options


def submit_command(
    config: RunConfigArgument,
    overrides: OverridesArgument = None,
    site: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The site file, a YAML file: partition, ranks of a node, ...")
    ] = None,
    nodes: Annotated[str, typer.Option(metavar="N|N-M", help="Nodes of the job, or the fewest and the most.")] = "1",
    time: Annotated[str | None, typer.Option(metavar="HH:MM:SS", help="Time limit of an attempt.")] = None,
    after: AfterOption = None,
    sbatch: SbatchOption = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,VALUE", help="Submit an array with a task for each value, as `lehr sweep`."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each combination, with seeds from run.seed on.")] = 1,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
) -> None:
    """Submit a run as a Slurm job that saves, goes back into the queue and resumes until the run is done.

    The config is checked before, for the machine that the site file describes. The job starts again after its time
    limit, a preemption, a node or a rank that has failed; not after a mistake, a divergence, or `lehr slurm cancel`.
    """
    from launcher.run.config import load_run_config
    from launcher.slurm.site import read_site
    from launcher.slurm.submit import prepare, submit

    options = sbatch_options(sbatch or [], time, after or [])
    command = ["lehr", *sys.argv[1:]]
    if grid or seeds > 1:
        from launcher.sweep.grid import parse_axes
        from launcher.sweep.points import plan_sweep

        sweep = plan_sweep(config, overrides or [], parse_axes(grid or []), seeds=seeds)
        runs, array = [point.config for point in sweep.points], sweep.folder
    else:
        runs, array = [load_run_config(config, overrides or [])], None
    submission = prepare(runs, read_site(site), nodes=nodes, options=options, command=command, array=array)
    if dry_run:
        print(submission.script, end="")
        return
    for warning in submission.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    job = submit(submission, command=command)
    if quiet:
        print(job)
        return
    what = f"the run {runs[0].run.path}" if array is None else f"{len(runs)} runs in {array}"
    print(f"job {job} is submitted for {what}")
    print(f"its batch file and its output: {submission.folder}")
    print(f"lehr slurm status {' '.join(str(run.run.path) for run in runs)}")
