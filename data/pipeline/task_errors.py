"""The error files by which a failed task tells the build, which runs in another process, why it failed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from typing import Any

from data.pipeline.work_folder import WorkFolder, write_report
from settings import UserError

_FULL_BYTES = 4096  # a disk with less room is full
_MOST_CHARACTERS = 10_000  # of a message, so that it fits into a pipe


class TaskErrorMixin:
    """Makes a datatrove executor write an error file for each task that raises."""

    work: WorkFolder
    stage: str

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> object:
        try:
            return super()._run_for_rank(rank, local_rank, node_rank)  # type: ignore[misc]
        except BaseException as error:
            with contextlib.suppress(OSError):  # the disk may be full
                write_report(self.work.error(self.stage, rank), error_record(error))
            raise


def error_record(error: BaseException) -> dict[str, Any]:
    """Return what the build must know of a task's error to raise it again."""
    return {
        "message": str(error)[:_MOST_CHARACTERS],
        "kind": type(error).__name__,
        "of_the_user": isinstance(error, UserError),
        "errno": getattr(error, "errno", None),
    }


def read_task_error(work: WorkFolder, stage: str, rank: int, ending: str) -> Exception:
    """Return the exception to raise for a task that failed; `ending` says how its process or job ended."""
    try:
        record = json.loads(work.error(stage, rank).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    return task_error(record, work, stage, rank, ending)


def task_error(record: dict[str, Any] | None, work: WorkFolder, stage: str, rank: int, ending: str) -> Exception:
    """Return the exception of an error record, or if there is none, one that says how the task ended."""
    logs = f"see {work.logs(stage)}"
    if record is None and shutil.disk_usage(work.path).free < _FULL_BYTES:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # which leaves no room for an error file either
    if record is None:
        return RuntimeError(
            f"task {rank} of stage {stage} ended without an error message ({ending}); out of memory? {logs}"
        )
    if record["of_the_user"]:
        return UserError(record["message"])
    if record["errno"] is not None:
        return OSError(record["errno"], record["message"])
    return RuntimeError(f"task {rank} of stage {stage} failed: {record['kind']}: {record['message']}; {logs}")
