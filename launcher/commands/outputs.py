"""The check of the paths that a user gives for outputs: lehr's own folders hold nothing else."""

from __future__ import annotations

from pathlib import Path

from settings import UserError


def check_output(path: Path, *, option: str) -> None:
    """Raises UserError if a file or folder would lie in a run's checkpoints or among shards.

    All files of a checkpoint are checked: one that does not belong to it makes it incomplete.
    """
    from data.shards.dataset_json import FILE_NAME as DESCRIPTION
    from train.checkpoint.writer_lease import FILE_NAME as LEASE

    target = path.resolve()
    for folder in (target, *target.parents):
        if (folder / LEASE).is_file():
            raise UserError(f"{option} {path} lies in {folder}, the checkpoints of a run; give another path")
        if (folder / DESCRIPTION).is_file():
            raise UserError(f"{option} {path} lies in {folder}, the shards of a source; give another path")
    if any(target.parent.glob(f"*/{DESCRIPTION}")):
        raise UserError(f"{option} {path} lies in {target.parent}, a folder of shards; give another path")
