"""`lehr slurm cancel`: ends the job of a run for good."""

from __future__ import annotations

from launcher.commands.arguments import RunFolderArgument


def cancel_command(run: RunFolderArgument) -> None:
    """Cancel the job of a run: its ranks save a checkpoint, and the job does not start again."""
    from launcher.slurm import scheduler
    from launcher.slurm.job_folder import JobFolder

    folder = JobFolder(run)
    job = str(folder.submission()["job"])
    state = scheduler.job_state(job)
    if state is None or not state.lives:
        print(f"job {job} has ended already")
        return
    folder.add_event("cancel", job=job)
    scheduler.cancel(job)
    print(f"job {job} is cancelled; `lehr slurm submit` of the same config goes on with the run")
