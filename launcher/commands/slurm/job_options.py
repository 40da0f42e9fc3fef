"""Options of the commands that submit a job."""

from __future__ import annotations

from typing import Annotated

import typer

from settings import UserError

AfterOption = Annotated[
    list[str] | None, typer.Option(metavar="JOB", help="Start when this job has succeeded; may be repeated.")
]
SbatchOption = Annotated[
    list[str] | None,
    typer.Option(metavar="OPTION[=VALUE]", help="Any option of sbatch, without its dashes; may be repeated."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the batch file and submit nothing.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print the job's number alone, for --after.")]


def sbatch_options(given: list[str], time: str | None, after: list[str]) -> dict[str, str]:
    """Returns the options of sbatch that the command sets. Raises UserError for one that breaks a rule."""
    from launcher.slurm.option_rules import check_option, dependency

    options = {}
    if time:
        check_option("--time", "time", time)
        options["time"] = time
    if after:
        options |= {"dependency": dependency(after), "kill-on-invalid-dep": "yes"}
    for text in given:
        name, _, value = text.removeprefix("--").partition("=")
        check_option("--sbatch", name, value)
        if after and name == "dependency":
            raise UserError(f"--sbatch {text} and --after {after[0]}: give all dependencies to one of them")
        options[name] = value
    return options
