"""The error files by which a failed task tells the build, which runs in another process, why it failed."""

from __future__ import annotations

import json

from data.pipeline.work_folder import WorkFolder, write_report
from settings import UserError


class TaskErrorMixin:
    """Makes a datatrove executor write an error file for each task that raises."""

    work: WorkFolder
    stage: str

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> object:
        try:
            return super()._run_for_rank(rank, local_rank, node_rank)  # type: ignore[misc]
        except BaseException as error:
            record = {
                "message": str(error),
                "kind": type(error).__name__,
                "of_the_user": isinstance(error, UserError),
                "errno": getattr(error, "errno", None),
            }
            write_report(self.work.error(self.stage, rank), record)
            raise


def read_task_error(work: WorkFolder, stage: str, rank: int, ending: str) -> Exception:
    """Return the exception to raise for a task that failed; `ending` says how its process or job ended."""
    logs = f"see {work.logs(stage)}"
    try:
        record = json.loads(work.error(stage, rank).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return RuntimeError(
            f"task {rank} of stage {stage} ended without an error message ({ending}); out of memory? {logs}"
        )
    if record["of_the_user"]:
        return UserError(record["message"])
    if record["errno"] is not None:
        return OSError(record["errno"], record["message"])
    return RuntimeError(f"task {rank} of stage {stage} failed: {record['kind']}: {record['message']}; {logs}")
