"""Opening the folder of a run: checked, leased to this process, the start recorded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from train.run_folder.resume_check import check_run
from train.run_folder.start_record import Start, record_start


def open_run(
    path: Path, config: Settings, start: Start, *, schedule_of: Callable[[Any], Schedule] | None = None
) -> WriterLease:
    """Creates the folder of a run or adds a start to it, and takes the writer lease. For one rank only.

    `schedule_of` is that of `check_run`. Raises UserError as `check_run` does, and RunError if the folder cannot be
    written to.
    """
    folder = check_run(path, config, start.inputs, schedule_of=schedule_of)
    with explained("opening the run folder"):
        for part in (folder.path, folder.checkpoints, folder.logs):
            part.mkdir(parents=True, exist_ok=True)
        job = start.job
        lease = WriterLease.take(folder.checkpoints, job=f"job {job['id']} attempt {job['attempt']}" if job else "")
        entry = start.describe()
        made_by = f"lehr {entry['versions'].get('lehr')}, git {entry['git'] or 'unknown'}, {entry['date']}"
        # With relative paths, the config would be another run's in another current folder.
        is_first = not folder.config.exists()
        write_text(folder.config, f"# {entry['command']}\n# {made_by}\n{to_yaml(with_absolute_paths(config))}")
        for warning in record_start(folder, start, entry, is_first=is_first):
            _warn(warning)
        if start.origin is not None:
            _branch(folder, start.origin, lease)
    return lease


def _branch(folder: RunFolder, origin: Origin, lease: WriterLease) -> None:
    """Gives a new run the checkpoint and the metrics of its origin, and records it in the run that it came from."""
    source = RunFolder(origin.path).checkpoints / folder_name(origin.step)
    evaluated = read_state(source).evaluated_step == origin.step
    copy_metrics(origin, folder, evaluated=evaluated)
    try:
        add_branch(origin, folder.path)
    except OSError as error:
        _warn(f"{origin.run} does not record this branch ({error.strerror}); run.json of the branch does")
    # The checkpoint comes last: a start that was killed before it is repeated.
    begin_with_checkpoint(source, lease, keep_optimizer=origin.optimizer == "keep")
    state = "as it was" if origin.optimizer == "keep" else "reset"
    print(f"Branches from {origin.run} at step {origin.step}, with the optimizer's state {state}.", flush=True)


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
