"""`lehr slurm run`: any other command of lehr as a job, such as a data build before a run or an export after it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from launcher.commands.slurm.job_options import AfterOption, DryRunOption, QuietOption, SbatchOption, sbatch_options


def run_command(
    words: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="such as: data build CONFIG, or eval RUN")],
    site: Annotated[Path | None, typer.Option(metavar="FILE", help="The site file.")] = None,
    time: Annotated[str | None, typer.Option(metavar="HH:MM:SS", help="Time limit.")] = None,
    after: AfterOption = None,
    sbatch: SbatchOption = None,
    folder: Annotated[Path, typer.Option(help="The folder of the batch file and the output.")] = Path("slurm-jobs"),
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run another command of lehr as a job of one task, once: data build, eval, export, generate.

    `--after` makes a chain of jobs. A build whose config has `data.executor: slurm` submits its own jobs, with the
    settings of the site file. Options of the command itself come after `--`.
    """
    from launcher.slurm.command_job import prepare_command
    from launcher.slurm.scheduler import submit
    from launcher.slurm.site import read_site
    from settings.files import output_of_user, write_text

    options = sbatch_options(sbatch or [], time, after or [])
    path, script = prepare_command(
        words, read_site(site), folder=folder.absolute(), options=options, command=["lehr", *sys.argv[1:]]
    )
    if dry_run:
        print(script, end="")
        return
    with output_of_user(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, script)
    job = submit(script)
    print(job if quiet else f"job {job} is submitted; its output: {folder / f'{path.stem}-{job}.out'}")
