"""Builds shards from text: filters, deduplication, tokenizer, tokens.

The shards grow in a work folder beside their own, which is named after the recipe and the input, and the finished
folder is renamed to its place at the very end. So a folder of shards is complete or does not exist. A build that was
killed continues after its last complete tasks, and a build of another recipe or input starts afresh.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.config import DataConfig
from data.pipeline.finished_build import find_finished_build
from data.pipeline.input_fingerprint import fingerprint_input
from data.pipeline.open_work_folder import (
    lock_work_folder,
    log_surprises,
    remove_leftovers,
    unfinished_builds,
    work_folder_of,
)
from data.pipeline.plan import Plan, make_plan
from data.pipeline.progress import Progress, ProgressMonitor
from data.pipeline.publish import publish
from data.pipeline.report import SourceReport
from data.pipeline.work_folder import WorkFolder
from data.tokenizer import end_of_text_id, load_tokenizer
from settings import UserError

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})


@dataclass(frozen=True)
class BuildResult:
    """The outcome of a build, or of an earlier one that was found."""

    shards: Path
    sources: dict[str, SourceReport]
    already_built: bool
    seconds: float

    @property
    def bytes(self) -> int:
        """The bytes of text that were read."""
        return sum(report.read_bytes for report in self.sources.values())


def build(
    config: DataConfig,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
    log: Callable[[str], None] = lambda message: None,
) -> BuildResult:
    """Build the shards of a config, or continue a build of it that was stopped.

    `stop` is polled several times a second, `report` receives the progress, and `log` a line for each thing that the
    user may not expect. The same config and input give the same bytes, whatever the workers and interruptions.

    Raises UserError for the user's mistakes, with nothing half-built in `config.shards`, and StoppedError if `stop`
    returned True.
    """
    start = time.monotonic()
    if found := find_finished_build(config, log):
        if unfinished_builds(config):
            with contextlib.suppress(UserError, OSError):  # the input or the tokenizer may be gone
                remove_leftovers(work_folder_of(config, fingerprint_input(config)))
        return BuildResult(config.shards, found, already_built=True, seconds=time.monotonic() - start)
    if config.tokenizer.path:
        end_of_text_id(load_tokenizer(config.tokenizer.path), config.tokenizer.end_of_text, config.tokenizer.path)
    if config.select:
        config.select.selector.check()
    inputs = fingerprint_input(config, log)  # first, so that each task finds out what changed since the plan was made
    plan = make_plan(config)
    work = work_folder_of(config, inputs)
    try:
        with lock_work_folder(work):
            if not (found := find_finished_build(config, log)):
                log_surprises(config, plan, work, log)
                _run_stages(config, plan, work, inputs, stop=stop, report=report)
                found = publish(config, work)
    except OSError as error:
        if error.errno in _NOT_WRITABLE:
            raise UserError(f"data.shards = {config.shards}: {work.path} cannot be written: {error.strerror}") from None
        if error.errno not in _DISK_FULL:
            raise
        raise UserError(
            f"the disk of {work.path} is full ({error.strerror}): make room, about {plan.bytes / 1e9:,.1f} GB "
            "in all, and run again; complete tasks are kept"
        ) from None
    return BuildResult(config.shards, found, already_built=False, seconds=time.monotonic() - start)


def _run_stages(
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
    workers = config.workers or (_num_cores() if config.executor == "local" else len(plan.tasks))
    monitor = ProgressMonitor(work, stages, workers=workers, stop=stop, report=report)
    run = {"local": run_here, "slurm": run_on_slurm}[config.executor]
    run(stages, work, config, monitor, workers)


def _num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
