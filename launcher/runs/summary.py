"""The progress of a run, from its run folder alone: no checkpoint is opened, and no torch is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.run.old_stages import with_new_stages
from settings import UserError, read_yaml
from settings.jsonl import read_last_lines
from settings.mistakes import KeyMistakeError
from train.checkpoint.writer_lease import running_holder, unreleased_host
from train.held_out_loss import HELD_OUT_LOSS
from train.run_folder.branch_record import Origin, read_branches
from train.run_folder.folder import RunFolder
from train.run_folder.start_record import recorded_origin

_TAIL_BYTES = 2**20  # of metrics.jsonl: over a thousand steps


@dataclass(frozen=True)
class RunSummary:
    """The progress of a run; what its files do not say is None."""

    path: Path
    config: Mapping[str, Any]
    step: int
    tokens: int
    loss: float | None  # of the last step, nats a token
    held_out_loss: float | None  # of the last evaluation
    origin: Origin | None
    branches: tuple[Path, ...]  # the folders of the runs that began from this one, there or not
    running: str | None  # the process that trains it

    @property
    def total_steps(self) -> int | None:
        """The steps that the run is to take."""
        train = self.config.get("train")
        steps = train.get("steps") if isinstance(train, Mapping) else None
        return steps if isinstance(steps, int) else None

    @property
    def state(self) -> str:
        """Says that the run is in training, is done, or was stopped."""
        if self.running is not None:
            return self.running
        if self.total_steps is not None and self.step >= self.total_steps:
            return "done"
        return "stopped" if self.step else "not begun"


def read_summary(path: Path) -> RunSummary:
    """Reads the summary of a run folder. Raises UserError if it cannot be read."""
    folder = RunFolder(path)
    try:
        rows = [values for _, values in read_last_lines(folder.metrics, _TAIL_BYTES)]
    except FileNotFoundError:
        rows = []
    except OSError as error:
        raise UserError(f"{folder.metrics} cannot be read: {error.strerror}") from None
    origin = recorded_origin(path)
    steps = [row for row in rows if "tokens" in row]
    return RunSummary(
        path=path,
        config=_config(folder),
        step=steps[-1]["step"] if steps else (origin.step if origin else 0),
        tokens=steps[-1]["tokens"] if steps else (origin.tokens if origin else 0),
        loss=_last(rows, "loss"),
        held_out_loss=_last(rows, HELD_OUT_LOSS),
        origin=origin,
        branches=tuple(Path(str(line["run"])) for line in _branches(folder) if "run" in line),
        running=_running(folder),
    )


def is_run(path: Path) -> bool:
    """Returns whether a run was started in a folder."""
    return RunFolder(path).holds_run


def _config(folder: RunFolder) -> Mapping[str, Any]:
    try:
        return with_new_stages(read_yaml(folder.config))
    except (UserError, KeyMistakeError):
        return {}


def _branches(folder: RunFolder) -> list[Mapping[str, Any]]:
    try:
        return read_branches(folder)
    except OSError:
        return []


def _last(rows: list[dict[str, Any]], key: str) -> float | None:
    """Returns the last value of a metric; None if there is none in the lines that were read."""
    for row in reversed(rows):
        if key in row:
            value = row[key]
            return math.nan if value is None else float(value)
    return None


def _running(folder: RunFolder) -> str | None:
    """Returns the state of a run whose writer lease is held; another host's process may have died."""
    if running_holder(folder.checkpoints) is not None:
        return "in training"
    host = unreleased_host(folder.checkpoints)
    return None if host is None else f"in training or lost on {host}"
