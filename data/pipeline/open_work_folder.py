"""The work folder of a build: its name, its lock, and what the user should know before work begins in it."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from data.config import DataConfig
from data.pipeline.build_output import work_folder_name
from data.pipeline.plan import Plan
from data.pipeline.work_folder import WorkFolder
from settings import UserError
from settings.files import output_of_user

_WORK_FORMAT = 4  # a change makes unfinished builds of older code start afresh
_SECONDS_FOR_THE_LOCK = 5.0


def work_folder_of(config: DataConfig, inputs: dict[str, str]) -> WorkFolder:
    """Return the work folder of a config, input and version: no two of them share one."""
    versions = [_WORK_FORMAT, *(version(package) for package in ("datatrove", "tokenizers", "numpy"))]
    tokenizer = config.tokenizer.path.read_bytes() if config.tokenizer.path else b""
    identity = [config.recipe(), inputs, versions, hashlib.sha256(tokenizer).hexdigest()]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    shards = config.shards.resolve()  # a link stays a link: the shards are built where it leads
    return WorkFolder(shards.with_name(work_folder_name(shards.name, digest)))


@contextmanager
def lock_work_folder(work: WorkFolder) -> Iterator[None]:
    """Hold the work folder's lock. Tasks inherit it, so a new build waits until no task of a killed one still writes.

    Raises UserError if another build holds the lock for five seconds, or if the folder cannot be made.
    """
    with output_of_user(f"data.shards: {work.path}"):
        work.path.mkdir(parents=True, exist_ok=True)
    with (work.path / "lock").open("w") as file:
        deadline = time.monotonic() + _SECONDS_FOR_THE_LOCK
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(f"another build of the same shards is running (it holds {file.name})") from None
                time.sleep(0.1)
        yield


def unfinished_builds(config: DataConfig) -> list[Path]:
    """Return the work folders beside the shards, of any config and input."""
    shards = config.shards.resolve()
    return sorted(shards.parent.glob(glob.escape(work_folder_name(shards.name, "")) + "*"))


def remove_leftovers(work: WorkFolder) -> None:
    """Remove the work folder of shards that are finished, which stays if the build was killed while it cleaned up."""
    if work.path.is_dir() and not _is_locked(work.path):
        shutil.rmtree(work.path, ignore_errors=True)


def _is_locked(folder: Path) -> bool:
    """Return whether a build is at work in a work folder."""
    try:
        with (folder / "lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def log_surprises(config: DataConfig, plan: Plan, work: WorkFolder, log: Callable[[str], None]) -> None:
    """Log what is not read, continued or removed, and if disk space is short.

    That is: files in folders of the input that are not read, an earlier build that is continued, and other unfinished
    builds.
    """
    for name, source in config.sources.items():
        if unread := source.unread():
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in unread.items())
            log(f"data.sources.{name}: {sum(unread.values()):,} files in its folders are not read: {reasons}")
    if (work.path / "logs").exists():
        log(f"continuing the unfinished build in {work.path}")
    for other in unfinished_builds(config):
        if other == work.path:
            continue
        if _is_locked(other):
            log(f"another build of {config.shards} is running, of another config or input; it works in {other}")
        else:
            log(f"{other} holds an unfinished build of another config or input; remove it if it is not wanted")
    free = shutil.disk_usage(work.path).free
    if free < plan.bytes:
        log(f"{free / 1e9:,.1f} GB are free at {work.path.parent}; the build may need about {plan.bytes / 1e9:,.1f} GB")
