"""The first checkpoint of a branch: that of another run at some step, in a run folder of its own.

Its files are hard links where the file system allows, so it takes no time and no room, and the other run may remove its
checkpoint. No file of a checkpoint is ever changed in place.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from settings import UserError
from settings.files import flush_folder, write_text
from train.checkpoint.discovery import LATEST, candidates, read_state, step_folders, step_of
from train.checkpoint.manifest import (
    FILE_NAME,
    IncompleteCheckpointError,
    Manifest,
    check_slices,
    folder_name,
    read_manifest,
)
from train.checkpoint.weights_only import Weights, write_weights
from train.checkpoint.writer_lease import WriterLease


def find_checkpoint(folder: Path, step: int | None) -> tuple[Path, Manifest]:
    """Returns a run's checkpoint of a step, or with None its newest complete one, from the folder of its checkpoints.

    Its files and their sizes are checked; the bytes are hashed when the checkpoint is loaded. Raises UserError if there
    is no such checkpoint, or if it is incomplete.
    """
    paths = {step_of(path): path for path in step_folders(folder)}
    if not paths:
        raise UserError(f"{folder.parent} has no checkpoint yet, from which another run could begin")
    if step is None:
        return _newest_complete(folder)
    if step not in paths:
        raise UserError(
            f"{folder.parent} has no checkpoint of step {step}; it has those of steps {', '.join(map(str, paths))}"
        )
    return paths[step], read_manifest(paths[step])


def begin_with_checkpoint(source: Path, lease: WriterLease, *, keep_optimizer: bool) -> None:
    """Publishes the checkpoint `source` of another run as the first one of the run that holds the lease.

    Without `keep_optimizer` it has the weights alone, so that the optimizer starts afresh. Raises UserError if `source`
    is gone or incomplete, and OSError.
    """
    staging = lease.workspace / source.name
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    manifest = read_manifest(source)
    check_slices(source, manifest)
    try:
        if keep_optimizer:
            for name in (*manifest.files, FILE_NAME):
                _link(source / name, staging / name)
        else:
            _write_without_optimizer(source, manifest, staging)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint {source} was removed meanwhile ({error.filename}); name another step") from None
    flush_folder(staging)
    lease.publish(staging, lease.folder / staging.name)
    write_text(lease.workspace / LATEST, staging.name + "\n")
    lease.publish(lease.workspace / LATEST, lease.folder / LATEST)


def _newest_complete(folder: Path) -> tuple[Path, Manifest]:
    problems = []
    for path in candidates(folder)[0]:
        try:
            return path, read_manifest(path)
        except IncompleteCheckpointError as error:
            problems.append(str(error))
    raise UserError("\n  ".join([f"no checkpoint of {folder.parent} is complete:", *problems]))


def _write_without_optimizer(source: Path, manifest: Manifest, staging: Path) -> None:
    weights = Weights(source, manifest)
    state = read_state(source).model_copy(update={"optimizer_steps": 0})
    assert staging.name == folder_name(state.step)
    write_weights(
        staging,
        weights.shapes,
        (weights.read(name) for name in weights.shapes),
        state=state,
        model=manifest.model,
        tokenizer=manifest.tokenizer,
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links, or a file of another user
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
