"""Build shards: text, filters, deduplication, tokenizer, tokens.

The shards grow in a work folder beside their own, named after the recipe and the input; the finished folder is renamed
to its place at the very end. So a folder of shards is whole or not there, and a build that was killed goes on where its
last complete tasks left off, while one of another recipe or input starts afresh.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from data.config import DataConfig
from data.pipeline.plan import Plan, fingerprint, make_plan
from data.pipeline.progress import Progress, Watcher
from data.pipeline.report import SourceReport, differences, read_build_file
from data.pipeline.work_folder import WorkFolder
from data.shards.dataset_json import FILE_NAME, check_hash, read_dataset
from data.tokenizer import end_of_text_id, load_tokenizer
from settings import UserError
from settings.differences import listed
from settings.files import file_sha256, flush_folder

_WORK_FORMAT = 2  # another number makes unfinished builds of older code start afresh
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})
_SECONDS_FOR_THE_LOCK = 5.0
_MOST_DIFFERENCES = 10


@dataclass(frozen=True)
class BuildResult:
    """What a build made, or found made."""

    shards: Path
    sources: dict[str, SourceReport]
    already_built: bool
    seconds: float

    @property
    def bytes(self) -> int:
        """Text read."""
        return sum(report.read_bytes for report in self.sources.values())


def build(
    config: DataConfig,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
    log: Callable[[str], None] = lambda message: None,
) -> BuildResult:
    """Build the shards of a config, or go on where an earlier call ended.

    `stop` is asked several times a second; `report` is told how far it is; `log` gets a line on what the user may not
    expect. The same config and input give the same bytes, whatever the number of workers and of interruptions.

    Raises UserError for mistakes (nothing is left half-built in `config.shards`), StoppedError where `stop` said so.
    """
    start = time.monotonic()
    if found := _finished(config, log):
        return BuildResult(config.shards, found, already_built=True, seconds=time.monotonic() - start)
    if config.tokenizer.path:
        end_of_text_id(load_tokenizer(config.tokenizer.path), config.tokenizer.end_of_text, config.tokenizer.path)
    plan, inputs = make_plan(config), fingerprint(config)
    work = WorkFolder(_work_path(config, inputs))
    try:
        with _lock(work):
            if not (found := _finished(config, log)):
                _warn(config, plan, work, log)
                _run(config, plan, work, inputs, stop=stop, report=report)
                found = _publish(config, work)
    except OSError as error:
        if error.errno in _NOT_WRITABLE:
            raise UserError(f"data.shards = {config.shards}: {work.path} cannot be written: {error.strerror}") from None
        if error.errno not in _DISK_FULL:
            raise
        raise UserError(
            f"the disk of {work.path} is full ({error.strerror}): make room, about {plan.bytes / 1e9:,.1f} GB "
            "in all, and run again; what is done there is kept"
        ) from None
    return BuildResult(config.shards, found, already_built=False, seconds=time.monotonic() - start)


def _finished(config: DataConfig, log: Callable[[str], None]) -> dict[str, SourceReport]:
    """The report of a finished build of this recipe and input, or nothing. Raises UserError where there is another."""
    shards = config.shards
    record = read_build_file(shards)
    if record is None:
        if shards.is_dir() and not any(shards.iterdir()):
            return {}
        if shards.exists():
            raise UserError(
                f"data.shards = {shards} exists and was not made by `lehr data build`; "
                "name another folder, or remove it"
            )
        return {}
    remedy = f"build into another folder (data.shards=...), or remove {shards} to build it anew"
    if changed := differences(record.recipe, json.loads(json.dumps(config.recipe()))):
        shown = listed(changed, most=_MOST_DIFFERENCES)
        raise UserError(f"{shards} holds shards of another config:\n{shown}\n{remedy}")
    _check_tokenizer(config, remedy)
    try:
        inputs = fingerprint(config)
    except UserError as error:
        log(f"the input of {shards} is no longer there: {error}")
        return record.sources
    if record.inputs != inputs:
        files = [file for file in {**record.inputs, **inputs} if record.inputs.get(file) != inputs.get(file)]
        raise UserError(f"{shards} was built from other input: {_some(files)} changed; {remedy}")
    return record.sources


def _check_tokenizer(config: DataConfig, remedy: str) -> None:
    """Raise UserError where the tokenizer beside finished shards, or the one to build with, is not theirs."""
    for dataset in sorted(config.shards.glob(f"*/{FILE_NAME}")):
        theirs = read_dataset(dataset.parent).tokenizer
        check_hash(config.shards / theirs.path, theirs.sha256)
        given = config.tokenizer.path
        if given and given.is_file() and (found := file_sha256(given)) != theirs.sha256:
            raise UserError(
                f"data.tokenizer.path = {given} is not the tokenizer that {dataset.parent} was built with: its SHA-256 "
                f"is {found[:16]}…, dataset.json says {theirs.sha256[:16]}…; put that one back, or {remedy}"
            )


def _work_path(config: DataConfig, inputs: dict[str, str]) -> Path:
    """A name per recipe, input and version, so that unfinished work is never mixed with another's."""
    versions = [_WORK_FORMAT, *(version(package) for package in ("datatrove", "tokenizers", "numpy"))]
    tokenizer = config.tokenizer.path.read_bytes() if config.tokenizer.path else b""
    identity = [config.recipe(), inputs, versions, hashlib.sha256(tokenizer).hexdigest()]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    shards = config.shards.absolute()
    return shards.with_name(f".{shards.name}.building-{digest}")


@contextmanager
def _lock(work: WorkFolder) -> Iterator[None]:
    """Hold the work folder alone. Tasks inherit the lock, so that none of a killed build can still be writing."""
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


def _warn(config: DataConfig, plan: Plan, work: WorkFolder, log: Callable[[str], None]) -> None:
    if (work.path / "logs").exists():
        log(f"going on with the unfinished build in {work.path}")
    prefix = f".{config.shards.absolute().name}.building-"
    for other in sorted(work.path.parent.glob(prefix + "*")):
        if other != work.path:
            log(f"{other} holds an unfinished build of another config or input; remove it if it is not wanted")
    free = shutil.disk_usage(work.path).free
    if free < plan.bytes:
        log(f"{free / 1e9:,.1f} GB are free at {work.path.parent}; the build may need about {plan.bytes / 1e9:,.1f} GB")


def _run(
    config: DataConfig,
    plan: Plan,
    work: WorkFolder,
    inputs: dict[str, str],
    *,
    stop: Callable[[], bool],
    report: Callable[[Progress], None],
) -> None:
    from data.pipeline.local_executor import run_here
    from data.pipeline.slurm_executor import run_on_slurm
    from data.pipeline.stages import make_stages

    if config.tokenizer.path:
        shutil.copyfile(config.tokenizer.path, work.tokenizer)
    stages = make_stages(config, plan, work, inputs)
    workers = config.workers or (_cores() if config.executor == "local" else len(plan.tasks))
    watcher = Watcher(work, stages, workers=workers, stop=stop, report=report)
    run = {"local": run_here, "slurm": run_on_slurm}[config.executor]
    run(stages, work, config, watcher, workers)


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _publish(config: DataConfig, work: WorkFolder) -> dict[str, SourceReport]:
    """Rename the finished folder to its place: from here on the shards exist."""
    record = read_build_file(work.shards)
    assert record is not None, "the last stage writes it"
    if all(source.is_empty for source in record.sources.values()):
        lines = "\n  ".join(source.line(name) for name, source in record.sources.items())
        raise UserError(f"no document is left to make shards of:\n  {lines}\nloosen data.filters, or mend the sources")
    for name, source in record.sources.items():
        if source.is_empty and config.on_bad_document == "fail":
            raise UserError(
                f"data.sources.{name} has no document left ({source.line(name)}); mend or remove it, "
                "or leave it out of the shards with data.on_bad_document=skip"
            )
    shards = config.shards.absolute()
    try:
        work.shards.rename(shards)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise UserError(f"data.shards = {shards} has appeared during the build; name another folder") from None
    flush_folder(shards.parent)
    shutil.rmtree(work.path)
    return record.sources


def _some(files: list[str]) -> str:
    return ", ".join(files[:3]) + (f" and {len(files) - 3:,} more files" if len(files) > 3 else "")
