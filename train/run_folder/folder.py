"""The folder of a run: its config, a record of every start, and where everything else goes.

runs/NAME/config.yaml     resolved: `lehr train runs/NAME/config.yaml` goes on with the run
runs/NAME/run.json        the hashes of what it reads; every start: command, versions, git commit, host, date
runs/NAME/verified_shards.json   which shards were hashed and found right
runs/NAME/metrics.jsonl   runs/NAME/tensorboard/   runs/NAME/checkpoints/   runs/NAME/logs/
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from settings import Settings, UserError, parse, read_yaml, to_yaml
from settings.differences import listed
from settings.files import explained, write_json, write_text
from settings.packages import installed_version
from train.checkpoint.discovery import state_to_go_on_from
from train.checkpoint.writer_lease import WriterLease, check_not_running
from train.resume_rules import differences, past_of
from train.run_folder.input_hashes import Inputs

_MOST_DIFFERENCES = 12
_PACKAGES = (
    "lehr",
    "torch",
    "megatron-core",
    "deepspeed",
    "datatrove",
    "flash-attn",
    "numpy",
    "safetensors",
    "tokenizers",
)


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        """The record of starts."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """One line a step."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """What befell the run: skipped steps, spikes, rollbacks."""
        return self.path / "events.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, and `latest`."""
        return self.path / "checkpoints"

    @property
    def verified_shards(self) -> Path:
        """The shards that were hashed and found right."""
        return self.path / "verified_shards.json"

    @property
    def logs(self) -> Path:
        """One log a rank."""
        return self.path / "logs"


class Record(Settings):
    """The whole of run.json."""

    format: Literal[1] = 1
    inputs: Inputs = Inputs()
    starts: list[Any] = Field([])


def check_run(path: Path, config: Settings, inputs: Inputs | None = None) -> RunFolder:
    """The folder of a run that does not exist yet, or that this config goes on with. Writes nothing.

    Raises UserError where the folder holds a run of another config, with every key that differs and may not (see
    train/resume_rules.py), or of other `inputs` (None: not looked at), where a process is at it already, and where it
    cannot be written to.
    """
    folder = RunFolder(path)
    _check_writable(path)
    check_not_running(folder.checkpoints)
    if not folder.config.exists():
        if folder.checkpoints.exists() or folder.metrics.exists():
            raise UserError(
                f"run folder {path} holds a run without its config.yaml; choose another run.name or put it back"
            )
        return folder
    there, here = _pasts(folder, config)
    recorded = recorded_inputs(path)
    changes = differences(there, here, schema=type(config), hashed=bool(inputs and recorded.sources))
    _refuse(
        f"run folder {path} holds a run of another config:",
        [f"{key}: {old} there, {new} here" for key, (old, new) in changes.items()],
        f"choose another run.name for a new run, or go on with this one: lehr train {folder.config}",
    )
    if inputs is not None:
        data = here.get("data", {})
        mixtures = [data.get("mixture"), *(stage["mixture"] for stage in data.get("stages", ()))]
        _refuse(
            f"run folder {path} holds a run of other data: what its config names has other content now:",
            recorded.differences(inputs, all_sources=not all(mixtures)),
            "choose another run.name for a new run, or put the content back (data.shards may name another folder)",
        )
    return folder


def recorded_inputs(path: Path) -> Inputs:
    """What a run read when it first started, as its record says; empty where there is none."""
    try:
        return _read_record(RunFolder(path).record).inputs
    except UserError:
        return Inputs()


def _pasts(folder: RunFolder, config: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """What decided the batches that the run has taken, by its recorded config and by this one."""
    plain = read_yaml(folder.config)
    try:  # with today's defaults for keys that were not known then
        there = parse(type(config), plain, source=str(folder.config)).to_plain()
    except UserError:
        return plain, config.to_plain()  # of another version of the schema: the keys that differ say so
    state, sources = state_to_go_on_from(folder.checkpoints), there.get("data", {}).get("sources", {})
    batch = state.batch if state else 0
    return past_of(there, batch=batch, sources=sources), past_of(config.to_plain(), batch=batch, sources=sources)


def _refuse(headline: str, found: list[str], remedy: str) -> None:
    """Raise UserError of what was found, if there is anything."""
    if found:
        raise UserError("\n".join([headline, listed(found, most=_MOST_DIFFERENCES), remedy]))


def _check_writable(path: Path) -> None:
    """Raise UserError unless `path` is, or can become, a folder that this user can write to."""
    try:
        there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    except OSError as error:
        raise UserError(f"run folder {path}: {error.strerror}; choose another run.name or run.folder") from None
    if not there.is_dir():
        name = f"run folder {path}" if there == path else f"run folder {path}: {there}"
        raise UserError(f"{name} is a file; choose another run.name or run.folder")
    if not os.access(there, os.W_OK | os.X_OK):
        reason = (
            "is on a file system mounted read-only" if _is_read_only(there) else "cannot be written to by this user"
        )
        raise UserError(f"run folder {path}: {there} {reason}; choose another run.folder, or mend that")


def _is_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def open_run(
    path: Path,
    config: Settings,
    *,
    world_size: int,
    inputs: Inputs | None = None,
    command: Sequence[str] | None = None,
) -> WriterLease:
    """Create the folder of a run, or add a start to it, and claim it. For one rank only; `check_run`'s errors apply.

    `command` is recorded as what started the run: by default this process's arguments. Raises RunError where the folder
    cannot be written to.
    """
    folder = check_run(path, config, inputs)
    with explained("opening the run folder"):
        for part in (folder.path, folder.checkpoints, folder.logs):
            part.mkdir(parents=True, exist_ok=True)
        lease = WriterLease.take(folder.checkpoints)
        _record(folder, config, inputs or Inputs(), command or ("lehr", *sys.argv[1:]), world_size)
    return lease


def _record(folder: RunFolder, config: Settings, inputs: Inputs, command: Sequence[str], world_size: int) -> None:
    start = _record_of_start(command, world_size)
    try:
        record = _read_record(folder.record)
    except UserError:  # set aside, not lost
        folder.record.rename(folder.record.with_suffix(".unreadable"))
        record = Record()
    made_by = f"lehr {start['versions'].get('lehr')}, git {start['git'] or 'unknown'}, {start['date']}"
    write_text(folder.config, f"# {start['command']}\n# {made_by}\n{to_yaml(config)}")
    record = Record(inputs=record.inputs.joined(inputs), starts=[*record.starts, start])
    write_json(folder.record, record.to_plain())


def _read_record(path: Path) -> Record:
    """run.json; an empty one where there is none. Raises UserError where it is not readable."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(plain, allow_nan=False)
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable: {error}") from None
    return parse(Record, plain, source=str(path))


def _record_of_start(command: Sequence[str], world_size: int) -> dict[str, Any]:
    return {
        "command": shlex.join(command),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "ranks": world_size,
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := installed_version(name)) is not None},
        "git": _git_commit(Path(__file__).parent),
    }


def _git_commit(folder: Path) -> str | None:
    """The commit of the code, with "+changes" where files differ from it; None outside a git checkout."""
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
