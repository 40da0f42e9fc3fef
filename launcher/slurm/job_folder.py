"""The folder of a run's job: the files that it was submitted with, and the record of its attempts.

runs/NAME/slurm/job.sbatch        the batch file, as submitted
runs/NAME/slurm/config.yaml       the config, with its overrides, as submitted
runs/NAME/slurm/site.yaml         the site file, as submitted
runs/NAME/slurm/job.json          the job's number, when and with which code it was submitted
runs/NAME/slurm/attempts.jsonl    what happened: a line for the begin and the end of each attempt, with the decision
runs/NAME/slurm/JOB.out           what the batch file and rank 0 printed, over all attempts
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from settings import UserError
from settings.files import read_json
from settings.jsonl import append_json_line, read_json_lines
from train.run_folder.folder import RunFolder

_LATEST = "latest"  # names the newest complete checkpoint (train/checkpoint/discovery.py, which imports torch)


@dataclass(frozen=True)
class JobFolder:
    """The paths and records of one run's job."""

    run: Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.run / "slurm"

    @property
    def script(self) -> Path:
        """The batch file."""
        return self.path / "job.sbatch"

    @property
    def config(self) -> Path:
        """The config, as submitted."""
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        """The record of the submission."""
        return self.path / "job.json"

    @property
    def attempts(self) -> Path:
        """The record of the attempts."""
        return self.path / "attempts.jsonl"

    @property
    def site(self) -> Path:
        """The site file, as submitted."""
        return self.path / "site.yaml"

    def submission(self) -> dict[str, Any]:
        """Reads the record of the submission. Raises UserError if this run was not submitted."""
        plain = read_json(self.record, missing=f"{self.run} has no Slurm job: `lehr slurm submit` starts one")
        if not isinstance(plain, dict) or not isinstance(plain.get("job"), str):
            raise UserError(f"{self.record} is no record of a job")
        return plain

    def events(self, job_id: str | None = None) -> list[dict[str, Any]]:
        """Reads what happened in the attempts, in order; of one job, or of all jobs that the run has had."""
        try:
            read = read_json_lines(self.attempts)
        except FileNotFoundError:
            return []
        return [values for _, values in read if job_id in (None, values.get("job"))]

    def add_event(self, event: str, **values: Any) -> None:
        """Appends one line to the record of the attempts: the event, the time, the newest checkpoint, and `values`."""
        append_json_line(self.attempts, {"time": time.time(), "event": event, "step": self.checkpoint_step(), **values})

    def checkpoint_step(self) -> int:
        """Returns the step of the newest complete checkpoint; 0 without one."""
        with contextlib.suppress(OSError, ValueError):
            name = (RunFolder(self.run).checkpoints / _LATEST).read_text(encoding="ascii").strip()
            return int(name.removeprefix("step-"))
        return 0
