"""The checkpoints in a run's folder: which there are, which `latest` names, and the newest complete one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from settings import UserError, parse
from settings.files import read_json
from train.checkpoint.manifest import (
    STATE_FILE_NAME,
    IncompleteCheckpointError,
    check_slices,
    content_problems,
    read_manifest,
)
from train.state import TrainState

LATEST = "latest"
_NAME = re.compile(r"step-\d{8,18}")


def step_of(path: Path) -> int:
    """Returns the step of a checkpoint, by its folder's name."""
    return int(path.name.removeprefix("step-"))


def step_folders(folder: Path) -> list[Path]:
    """Lists all checkpoints by step, oldest first, complete or not. Raises UserError if the folder cannot be read."""
    try:
        found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):  # what lies in the way is named where the folder is made
        return []
    except OSError as error:
        raise UserError(f"checkpoints in {folder} cannot be read: {error.strerror}") from None
    return sorted(found, key=step_of)


def read_latest(folder: Path) -> str | None:
    """Reads the name in `latest`; None if there is no such file, "" if it names nothing that could be a checkpoint."""
    try:
        with (folder / LATEST).open("rb") as file:
            name = file.read(64).decode("ascii", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return ""
    return name if _NAME.fullmatch(name) else ""


def candidates(folder: Path) -> tuple[list[Path], list[str]]:
    """Returns (checkpoints in the order in which they are to be tried, what is wrong with `latest`).

    The first is the one that `latest` names, the others follow from the newest to the oldest. Raises UserError if there
    is a `latest` but no checkpoint: a run that had checkpoints does not silently begin anew.
    """
    newest_first = step_folders(folder)[::-1]
    latest = read_latest(folder)
    if not newest_first:
        if latest is None:
            return [], []
        raise UserError(
            f"{folder} holds no checkpoint, but {LATEST} names {latest or 'one'}: put it back, "
            "or choose another run.name for a new run"
        )
    named = [path for path in newest_first if path.name == latest]
    warnings = []
    if latest is None:
        warnings.append(f"{folder / LATEST} is missing")
    elif not latest:
        warnings.append(f"{folder / LATEST} names no checkpoint")
    elif not named:
        warnings.append(f"{folder / LATEST} names {latest}, which is not there")
    return [*named, *(path for path in newest_first if path not in named)], warnings


def first_complete(
    paths: Sequence[Path],
    warnings: Sequence[str],
    *,
    problems: Callable[[Path], list[str]],
    warn: Callable[[str], None],
) -> Path | None:
    """Returns the first of `candidates` without `problems`, or None if there are no candidates.

    `warn` is called with each one that was passed over, and why. Raises UserError if no candidate is complete.
    """
    refused: list[str] = []
    for path in paths:
        found = problems(path)
        if found:
            refused.append(str(IncompleteCheckpointError(path, found)))
            continue
        for warning in (*warnings, *refused):
            warn(f"{warning}; going on from {path.name}")
        return path
    if refused:
        raise UserError(
            "\n  ".join(["no checkpoint of this run is complete:", *refused])
            + f"\nput back what is missing, or move {paths[0].parent} away to begin anew"
        )
    return None


def problems_of(path: Path) -> list[str]:
    """Lists all that is wrong with one checkpoint: its files, their hashes, their slices. Reads every byte."""
    try:
        manifest = read_manifest(path)
        found = content_problems(path, manifest)
        if not found:
            check_slices(path, manifest)
    except IncompleteCheckpointError as error:
        return error.problems
    return found


def latest_checkpoint(folder: Path, *, warn: Callable[[str], None] = lambda _: None) -> Path | None:
    """Returns the newest complete checkpoint of a run, every byte of it checked; None if there is none yet.

    For one process only. Raises UserError if there are checkpoints and none is complete.
    """
    return first_complete(*candidates(folder), problems=problems_of, warn=warn)


def read_state(path: Path) -> TrainState:
    """Reads the state of the checkpoint `path`. Raises UserError if it is not readable."""
    source = path / STATE_FILE_NAME
    return parse(TrainState, read_json(source), source=str(source))


def state_to_go_on_from(folder: Path) -> TrainState | None:
    """Reads the state of the checkpoint that a start would load, if its tensors are complete; None without one."""
    for path in candidates(folder)[0]:
        with contextlib.suppress(UserError):  # a start passes over it too
            return read_state(path)
    return None
