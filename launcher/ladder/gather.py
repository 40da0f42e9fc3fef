"""The records of runs that finished elsewhere, such as in a Slurm job: their folders hold the last checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.sweep.points import Point
from launcher.sweep.records import Record, add_record, read_records, record_of
from train.checkpoint.discovery import read_latest
from train.checkpoint.manifest import folder_name
from train.run_folder.folder import RunFolder


def gather_finished(points: Sequence[Point], records: Path) -> dict[str, Record]:
    """Returns the records of a file, after adding one for each point whose run is done.

    A run without its last held-out loss is not done: it was stopped within that evaluation.
    """
    known = read_records(records)
    for point in points:
        checkpoints = RunFolder(point.config.run.path).checkpoints
        if point.digest in known or read_latest(checkpoints) != folder_name(point.config.train.steps):
            continue
        record = record_of(point)
        if record.loss_is != "training":
            add_record(records, record)
            known[record.config] = record
    return known
