"""run.json: the record of a run's starts, the hashes of what the run reads, and the plan of its draws."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data.batches.draw_plan import DrawPlan, Seen
from settings import Settings, UserError, parse
from settings.files import write_json
from settings.packages import installed_version
from train.run_folder.branch_record import Origin
from train.run_folder.folder import RunFolder
from train.run_folder.input_hashes import Inputs
from train.run_folder.recorded_schedule import SchedulePhases

_PACKAGES = (
    "lehr",
    "torch",
    "megatron-core",
    "deepspeed",
    "datatrove",
    "flash-attn",
    "flash-attn-3",
    "flash-attn-4",
    "numpy",
    "safetensors",
    "tokenizers",
)


@dataclass(frozen=True)
class Start:
    """What a start records: how the run goes on from now, and who started it."""

    world_size: int
    inputs: Inputs | None = None  # the hashes of what it reads; None means that they are not compared
    schedules: Mapping[str, SchedulePhases] | None = None  # the phases from now on; None keeps the recorded ones
    origin: Origin | None = None  # the checkpoint of another run that becomes the first one of this run
    draws: DrawPlan | None = None  # None keeps the recorded plan
    replayed: Mapping[str, Seen] = field(default_factory=dict)  # what earlier runs had read; recorded ones stay
    choices: Mapping[str, str | bool] = field(default_factory=dict)  # kernels and compilation, which later starts keep
    groups: Mapping[str, Any] = field(default_factory=dict)  # the process groups
    job: Mapping[str, Any] | None = None  # the Slurm job
    command: Sequence[str] = ()  # empty means the arguments of this process

    def describe(self) -> dict[str, Any]:
        """Describes the start: command, date, host, Slurm job, how it computes, process groups, versions, commit."""
        return {
            "command": shlex.join(self.command or ("lehr", *sys.argv[1:])),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "ranks": self.world_size,
            **({} if self.job is None else {"job": dict(self.job)}),
            **self.choices,
            "groups": dict(self.groups),
            "python": platform.python_version(),
            "versions": {name: version for name in _PACKAGES if (version := installed_version(name)) is not None},
            "git": git_commit(Path(__file__).parent),
        }


class Record(Settings):
    """The content of run.json."""

    format: Literal[1] = 1
    inputs: Inputs = Inputs()
    schedules: dict[str, SchedulePhases] = Field({}, description="their phases, by their keys in the config")
    branched_from: Origin | None = None
    draws: DrawPlan | None = None  # of the newest start; stages that had begun before are as they were
    replayed: dict[str, Seen] = Field({})  # what earlier runs had read when this run began, by replay.run
    starts: list[Any] = Field([], description="one entry each, see Start.describe")

    def with_start(self, start: Start, entry: Mapping[str, Any], *, is_first: bool) -> Record:
        """Returns the record with one more start, whose entry is `entry`."""
        inputs = start.inputs or Inputs()
        return self.model_copy(
            update={
                "inputs": inputs if is_first else self.inputs.joined(inputs),
                "schedules": self.schedules if start.schedules is None else dict(start.schedules),
                "branched_from": start.origin or self.branched_from,
                "draws": start.draws or self.draws,
                "replayed": {**start.replayed, **self.replayed},
                "starts": [*self.starts, entry],
            }
        )


def recorded_inputs(path: Path) -> Inputs:
    """Returns the hashes that the run in the folder `path` recorded at its first start; empty if there is no record."""
    return _record_or_empty(path).inputs


def recorded_schedules(path: Path) -> dict[str, SchedulePhases]:
    """Returns the phases that the run in the folder `path` has recorded, by the keys of its schedules; else empty."""
    return _record_or_empty(path).schedules


def recorded_origin(path: Path) -> Origin | None:
    """Returns where the run in the folder `path` branched from another one; None if it did not, or has no record."""
    return _record_or_empty(path).branched_from


def recorded_draws(path: Path) -> DrawPlan | None:
    """Returns the plan of the draws of the run in the folder `path`; None if it recorded none.

    Raises UserError if the record is not readable.
    """
    return _read_record(RunFolder(path).record).draws


def recorded_replays(path: Path) -> dict[str, Seen]:
    """Returns what earlier runs had read when the run in the folder `path` began, by replay.run; else empty."""
    return _record_or_empty(path).replayed


# What every run did before these were choices.
_BEFORE_CHOICES = {"cross_entropy_kernel": "torch", "compiled": False}


def recorded_choices(path: Path) -> dict[str, Any]:
    """Returns the kernels of the newest start that recorded them, and whether it compiled. Empty if none did."""
    starts = _record_or_empty(path).starts
    newest = next(
        (start for start in reversed(starts) if isinstance(start, dict) and "attention_kernel" in start), None
    )
    if newest is None:
        return {}
    return {key: newest.get(key, before) for key, before in {"attention_kernel": None, **_BEFORE_CHOICES}.items()}


def recorded_starts(path: Path) -> int:
    """Returns how many starts the run in the folder `path` has recorded; 0 if there is no record."""
    return len(_record_or_empty(path).starts)


def last_start(path: Path) -> dict[str, Any]:
    """Returns the last start that the run in the folder `path` has recorded; empty if there is no record."""
    starts = _record_or_empty(path).starts
    return starts[-1] if starts and isinstance(starts[-1], dict) else {}


def record_start(folder: RunFolder, start: Start, entry: Mapping[str, Any], *, is_first: bool) -> list[str]:
    """Adds a start to run.json, with the entry that `Start.describe` made. A record that cannot be read is renamed.

    Returns a warning if the record of the starts before is lost.
    """
    lost = None if is_first or folder.record.exists() else "is missing"
    try:
        record = _read_record(folder.record)
    except UserError:
        unreadable = folder.record.with_suffix(".unreadable")
        folder.record.rename(unreadable)
        record, lost = Record(), f"cannot be read and is kept as {unreadable.name}"
    write_json(folder.record, record.with_start(start, entry, is_first=is_first).to_plain())
    if lost is None:
        return []
    return [
        f"{folder.record} {lost}: nothing says with which data the run began, so they were not compared; "
        "those of this start are recorded"
    ]


def git_commit(folder: Path) -> str | None:
    """Returns the commit of the code, with "+changes" if files differ from it; None outside a git checkout."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", ":/"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + ("+changes" if changes.strip() else "")


def _record_or_empty(path: Path) -> Record:
    """Returns the record of the run in the folder `path`; an empty one if there is none, or none that is readable."""
    try:
        return _read_record(RunFolder(path).record)
    except UserError:
        return Record()


def _read_record(path: Path) -> Record:
    """Reads run.json; returns an empty record if there is none. Raises UserError if it is not readable."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(plain, allow_nan=False)
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable: {error}") from None
    return parse(Record, plain, source=str(path))
