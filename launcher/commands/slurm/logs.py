"""`lehr slurm logs`: the logs of all ranks of a run's job, merged by time, or the first error."""

from __future__ import annotations

from typing import Annotated

import typer

from launcher.commands.arguments import RunFolderArgument
from settings import UserError


def logs_command(
    run: RunFolderArgument,
    attempt: Annotated[int | None, typer.Option(min=1, help="The attempt; the newest if not given.")] = None,
    error: Annotated[bool, typer.Option("--error", help="Print only the first error, with its rank and node.")] = False,
) -> None:
    """Print the logs of all ranks of one attempt, merged by time; or the first error."""
    from launcher.slurm.job_folder import JobFolder
    from launcher.slurm.merged_logs import attempt_folders, first_error, merged
    from train.run_folder.folder import RunFolder

    job = str(JobFolder(run).submission()["job"])
    folders = attempt_folders(RunFolder(run).logs, job)
    if attempt is not None:
        folders = [folder for folder in folders if folder.name.endswith(f"-attempt-{attempt}")]
    if not folders:
        raise UserError(f"job {job} has no logs{'' if attempt is None else f' of attempt {attempt}'} yet")
    if error:
        print(first_error(folders))
        return
    for line in merged(folders[-1]):
        print(line)
