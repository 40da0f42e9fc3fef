"""The checks before a run starts or resumes in its folder: the same run, the same data, a folder to write to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from schedules.base import Schedule
from schedules.stage_lengths import mixes
from settings import Settings, UserError, parse, read_yaml
from settings.differences import listed
from settings.paths import with_absolute_paths
from train.checkpoint.discovery import read_latest, state_to_go_on_from, step_folders
from train.checkpoint.writer_lease import check_not_running
from train.resume_rules import differences, past_of, without_schedules
from train.run_folder.folder import RunFolder
from train.run_folder.input_hashes import Inputs
from train.run_folder.start_record import recorded_inputs

_MOST_DIFFERENCES = 12


def check_run(
    path: Path,
    config: Settings,
    inputs: Inputs | None = None,
    *,
    schedule_of: Callable[[Any], Schedule] | None = None,
) -> RunFolder:
    """Checks that the folder holds no run yet, or one that this config goes on with. Writes nothing.

    `schedule_of` returns the schedule of a config: then another schedule goes on with the run if every step that was
    taken keeps its lr.

    Raises UserError if the folder holds a run of another config (train/resume_rules.py), with every key that differs,
    or of other `inputs` (None: not compared), if a process trains it already, and if it cannot be written to.
    """
    config = with_absolute_paths(config)  # before anything is written: it raises if a path cannot be recorded
    folder = RunFolder(path)
    check_writable(path)
    check_not_running(folder.checkpoints)
    if not folder.config.exists():
        # A start that was killed at once leaves an empty folder of checkpoints.
        if step_folders(folder.checkpoints) or read_latest(folder.checkpoints) is not None or folder.metrics.exists():
            raise UserError(
                f"run folder {path} holds a run without its config.yaml; choose another run.name or put it back"
            )
        return folder
    there, here = _decisive_configs(folder, config, schedule_of)
    recorded = recorded_inputs(path)
    changes = differences(there, here, schema=type(config), hashed=bool(inputs and recorded.sources))
    _refuse(
        f"run folder {path} holds a run of another config:",
        [f"{key}: {old} there, {new} here" for key, (old, new) in changes.items()],
        ("the schedule may change where the lr of the steps taken stays the same\n" if _of_schedule(changes) else "")
        + f"choose another run.name for a new run, or go on with this one: lehr train {folder.config}"
        + ("" if any(key.startswith("model.") for key in changes) else _branch_advice(folder)),
    )
    if inputs is not None:
        mixtures = [mix.mixture for mix in mixes(config.to_plain())]
        tokenizer_differs = bool(recorded.tokenizer) and recorded.tokenizer != inputs.tokenizer
        _refuse(
            f"run folder {path} holds a run of other data: what its config names has other content now:",
            recorded.differences(inputs, all_sources=not all(mixtures)),
            "choose another run.name for a new run, or put the content back (data.shards may name another folder)"
            + ("" if tokenizer_differs else _branch_advice(folder)),
        )
    return folder


def check_writable(path: Path) -> None:
    """Raises UserError unless `path` is, or can become, a folder that this user can write to."""
    try:
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    except OSError as error:
        raise UserError(f"run folder {path}: {error.strerror}; choose another run.name or run.folder") from None
    if not existing.is_dir():
        name = f"run folder {path}" if existing == path else f"run folder {path}: {existing}"
        raise UserError(f"{name} is a file; choose another run.name or run.folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        reason = (
            "is on a file system mounted read-only" if _is_read_only(existing) else "cannot be written to by this user"
        )
        raise UserError(f"run folder {path}: {existing} {reason}; choose another run.folder, or make it writable")
    if existing != path:
        try:  # only an attempt shows what a file system such as /proc refuses
            Path(tempfile.mkdtemp(prefix=".lehr-", dir=existing)).rmdir()
        except OSError as error:
            raise UserError(
                f"run folder {path}: no folder can be made in {existing}: {error.strerror}; choose another run.folder"
            ) from None


def _decisive_configs(
    folder: RunFolder, config: Settings, schedule_of: Callable[[Any], Schedule] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the parts of the recorded config and of this one that decided the steps the run has taken."""
    plain, here = read_yaml(folder.config), with_absolute_paths(config).to_plain()
    try:  # with today's defaults for keys that were not known then
        recorded = with_absolute_paths(parse(type(config), plain, source=str(folder.config)))
    except UserError:
        return plain, here  # of another version of the schema: the keys that differ say so
    there = recorded.to_plain()
    state, sources = state_to_go_on_from(folder.checkpoints), there.get("data", {}).get("sources", {})
    batch = state.batch if state else 0
    staged = bool(there.get("stages") or here.get("stages"))
    past, past_here = (past_of(each, batch=batch, sources=sources, staged=staged) for each in (there, here))
    if schedule_of is not None and _is_same_lr(schedule_of, recorded, config, steps=state.step if state else 0):
        past, past_here = without_schedules(past), without_schedules(past_here)
    return past, past_here


def _is_same_lr(schedule_of: Callable[[Any], Schedule], there: Settings, here: Settings, *, steps: int) -> bool:
    """Returns whether the first `steps` steps have the same lr to the bit by both configs."""
    try:
        past, past_here = (schedule_of(config).lr(range(steps)) for config in (there, here))
    except UserError:  # edited by hand
        return False
    return past.tobytes() == past_here.tobytes()


def _of_schedule(keys: Iterable[str]) -> bool:
    return any(key.startswith("schedule.") or ".schedule" in key for key in keys)


def _branch_advice(folder: RunFolder) -> str:
    """Returns lines that name the command of a branch of this run; "" if it has no checkpoint."""
    if not step_folders(folder.checkpoints):
        return ""
    return (
        "\nto begin a new run from a checkpoint of this one (branch.optimizer=reset for new optimizer state):"
        f"\n  lehr train CONFIG --from {folder.path} run.name=NEW [KEY=VALUE]..."
    )


def _refuse(headline: str, found: list[str], remedy: str) -> None:
    """Raises UserError with all that was found, if there is anything."""
    if found:
        raise UserError("\n".join([headline, listed(found, most=_MOST_DIFFERENCES), remedy]))


def _is_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
