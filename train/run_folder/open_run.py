"""Opening the folder of a run: checked, leased to this process, the start recorded."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from settings import Settings, to_yaml
from settings.files import explained, write_text
from settings.paths import with_absolute_paths
from train.checkpoint.writer_lease import WriterLease
from train.run_folder.input_hashes import Inputs
from train.run_folder.resume_check import check_run
from train.run_folder.start_record import describe_start, record_start


def open_run(
    path: Path,
    config: Settings,
    *,
    world_size: int,
    inputs: Inputs | None = None,
    choices: Mapping[str, str | bool] | None = None,
    command: Sequence[str] | None = None,
    groups: Mapping[str, Any] | None = None,
) -> WriterLease:
    """Creates the folder of a run or adds a start to it, and takes the writer lease. For one rank only.

    `choices` are those of kernels and compilation, which a later start keeps. `command` is recorded as what started the
    run: by default this process's arguments. `groups` is the record of the process groups. Raises UserError as
    `check_run` does, and RunError if the folder cannot be written to.
    """
    folder = check_run(path, config, inputs)
    with explained("opening the run folder"):
        for part in (folder.path, folder.checkpoints, folder.logs):
            part.mkdir(parents=True, exist_ok=True)
        lease = WriterLease.take(folder.checkpoints)
        start = describe_start(
            command or ("lehr", *sys.argv[1:]), world_size, choices=choices or {}, groups=groups or {}
        )
        made_by = f"lehr {start['versions'].get('lehr')}, git {start['git'] or 'unknown'}, {start['date']}"
        # With relative paths, the config would be another run's in another current folder.
        is_first = not folder.config.exists()
        write_text(folder.config, f"# {start['command']}\n# {made_by}\n{to_yaml(with_absolute_paths(config))}")
        for warning in record_start(folder, inputs or Inputs(), start, is_first=is_first):
            print(f"warning: {warning}", file=sys.stderr, flush=True)
    return lease
