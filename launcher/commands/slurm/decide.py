"""`lehr slurm decide`: what a job's batch file asks at the begin and the end of an attempt."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.arguments import RunFolderArgument
from launcher.processes.environment import slurm_job
from settings import UserError

if TYPE_CHECKING:
    from launcher.slurm.attempt import Attempt

EVENTS: dict[str, Callable[[Attempt, int], int]] = {
    "begin": lambda attempt, exit_code: attempt.begin(),
    "unhealthy": lambda attempt, exit_code: attempt.unhealthy(),
    "terminated": lambda attempt, exit_code: attempt.terminated(),
    "end": lambda attempt, exit_code: attempt.end(exit_code),
}


def decide_command(
    run: RunFolderArgument,
    event: Annotated[str, typer.Argument(metavar="|".join(EVENTS), help="What has happened.")],
    exit_code: Annotated[int, typer.Option(min=0, help="At the end: the exit code of srun.")] = 0,
) -> None:
    """Decide whether the job that this is called in ends or goes back into the queue, and do it.

    The batch file of `lehr slurm submit` calls it, and ends with its exit code.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # putting the job back makes Slurm end all of its processes
    if event not in EVENTS:
        raise UserError(f'"{event}" must be one of {", ".join(EVENTS)}')
    raise SystemExit(EVENTS[event](_attempt(run), exit_code))


def _attempt(run: Path) -> Attempt:
    from launcher.slurm.attempt import Attempt

    if (job := slurm_job()) is None:
        raise UserError("`lehr slurm decide` is called by the batch file of a job, and this is no Slurm job")
    return Attempt(run, job)
