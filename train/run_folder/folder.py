"""The folder of a run: where its config, its record of starts, and everything else lie.

runs/NAME/config.yaml     resolved: `lehr train runs/NAME/config.yaml` goes on with the run
runs/NAME/run.json        the hashes of what it reads; every start: command, versions, git commit, host, date
runs/NAME/metrics.jsonl   runs/NAME/events.jsonl   runs/NAME/tensorboard/   runs/NAME/checkpoints/   runs/NAME/logs/
runs/NAME/branches.jsonl  the runs that have begun from a checkpoint of this one
runs/NAME/profile/        traces of profiled steps
runs/NAME/time.jsonl      what the time of each start was spent on (train/metrics/time_ledger.py)
runs/NAME/metrics-1.jsonl, tensorboard-1/        what was logged before the checkpoints were lost
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.checkpoint.writer_lease import FILE_NAME as LEASE_FILE_NAME


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here: its config lies beside what a start writes."""
        written = (self.record, self.metrics, self.checkpoints / LEASE_FILE_NAME)
        return self.config.is_file() and any(path.is_file() for path in written)

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        """The record of starts."""
        return self.path / "run.json"

    @property
    def branches(self) -> Path:
        """The runs that began from a checkpoint of this one, a line each."""
        return self.path / "branches.jsonl"

    @property
    def metrics(self) -> Path:
        """One line a step."""
        return self.path / "metrics.jsonl"

    def metrics_kept(self, number: int) -> Path:
        """Returns the path to which metrics.jsonl is renamed for the `number`-th time."""
        return self.metrics.with_name(f"metrics-{number}.jsonl")

    @property
    def events(self) -> Path:
        """Skipped steps, loss spikes, rollbacks."""
        return self.path / "events.jsonl"

    @property
    def times(self) -> Path:
        """What the time of each start was spent on."""
        return self.path / "time.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    def tensorboard_kept(self, number: int) -> Path:
        """Returns the path to which TensorBoard's folder is renamed for the `number`-th time."""
        return self.tensorboard.with_name(f"tensorboard-{number}")

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, and `latest`."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """One log a rank."""
        return self.path / "logs"

    @property
    def profile(self) -> Path:
        """The traces of profiled steps."""
        return self.path / "profile"
