"""Opening the folder of a run: checked, leased to this process, the start recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.batches.draw_plan import DrawPlan, Seen
from schedules.base import Schedule
from settings import Settings, to_yaml
from settings.files import explained, write_text
from settings.paths import with_absolute_paths
from train.checkpoint.branching import begin_with_checkpoint
from train.checkpoint.discovery import read_state
from train.checkpoint.manifest import folder_name
from train.checkpoint.writer_lease import WriterLease
from train.run_folder.branch_record import Origin, add_branch, copy_metrics
from train.run_folder.folder import RunFolder
from train.run_folder.input_hashes import Inputs
from train.run_folder.recorded_schedule import SchedulePhases
from train.run_folder.resume_check import check_run
from train.run_folder.start_record import describe_start, record_start


def open_run(
    path: Path,
    config: Settings,
    *,
    world_size: int,
    inputs: Inputs | None = None,
    draws: DrawPlan | None = None,
    replayed: Mapping[str, Seen] | None = None,
    choices: Mapping[str, str | bool] | None = None,
    command: Sequence[str] | None = None,
    groups: Mapping[str, Any] | None = None,
    job: Mapping[str, Any] | None = None,
    schedules: Mapping[str, SchedulePhases] | None = None,
    schedule_of: Callable[[Any], Schedule] | None = None,
    origin: Origin | None = None,
) -> WriterLease:
    """Creates the folder of a run or adds a start to it, and takes the writer lease. For one rank only.

    `draws` and `replayed` are recorded, so that a later run can tell which data this one has read, and this one keeps
    what earlier runs had read when it began. `choices` are those of kernels and compilation, which a later start keeps.
    `command` is recorded as what started the run: by default this process's arguments. `groups` is the record of the
    process groups, `job` that of the Slurm job, and `schedules` that of the phases of its schedules. `origin` is the
    checkpoint of another run that becomes the first one of this run. `schedule_of` is that of `check_run`. Raises
    UserError as `check_run` does, and RunError if the folder cannot be written to.
    """
    folder = check_run(path, config, inputs, schedule_of=schedule_of)
    with explained("opening the run folder"):
        for part in (folder.path, folder.checkpoints, folder.logs):
            part.mkdir(parents=True, exist_ok=True)
        lease = WriterLease.take(folder.checkpoints, job=f"job {job['id']} attempt {job['attempt']}" if job else "")
        start = describe_start(
            command or ("lehr", *sys.argv[1:]), world_size, choices=choices or {}, groups=groups or {}, job=job
        )
        made_by = f"lehr {start['versions'].get('lehr')}, git {start['git'] or 'unknown'}, {start['date']}"
        # With relative paths, the config would be another run's in another current folder.
        is_first = not folder.config.exists()
        write_text(folder.config, f"# {start['command']}\n# {made_by}\n{to_yaml(with_absolute_paths(config))}")
        for warning in record_start(
            folder,
            inputs or Inputs(),
            start,
            is_first=is_first,
            draws=draws,
            replayed=replayed,
            schedules=schedules,
            origin=origin,
        ):
            _warn(warning)
        if origin is not None:
            _branch(folder, origin, lease)
    return lease


def _branch(folder: RunFolder, origin: Origin, lease: WriterLease) -> None:
    """Gives a new run the checkpoint and the metrics of its origin, and records it in the run that it came from."""
    source = RunFolder(origin.path).checkpoints / folder_name(origin.step)
    evaluated = read_state(source).evaluated_step == origin.step
    copy_metrics(origin, folder, evaluated=evaluated)
    begin_with_checkpoint(source, lease, keep_optimizer=origin.optimizer == "keep")
    try:
        add_branch(origin, folder.path)
    except OSError as error:
        _warn(f"{origin.run} does not record this branch ({error.strerror}); run.json of the branch does")
    state = "as it was" if origin.optimizer == "keep" else "reset"
    print(f"Branches from {origin.run} at step {origin.step}, with the optimizer's state {state}.", flush=True)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
