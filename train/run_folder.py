"""The folder of a run: its config, a record of every start, and where everything else goes.

runs/NAME/config.yaml     resolved: `lehr train runs/NAME/config.yaml` goes on with the run
runs/NAME/run.json        every start: command, versions, git commit, host, date
runs/NAME/metrics.jsonl   runs/NAME/tensorboard/   runs/NAME/checkpoints/   runs/NAME/logs/
"""

from __future__ import annotations

import datetime
import fnmatch
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from settings import Settings, UserError, parse, read_yaml, to_yaml
from settings.files import explained, write_json, write_text
from train.claim import Claim, check_not_running

# What may change when a run goes on. All else makes another run of it: the losses would not be those of one run.
MAY_CHANGE = {
    "run.folder": "the folder was moved",
    "run.name": "the folder was renamed",
    "parallel.*": "any layout gives the same run",
    "train.steps": "a longer run, or a shorter one; the schedule is drawn over the new length",
    "train.micro_batch_size": "how a global batch is cut, not what is in it",
    "train.recompute": "memory for time",
    "train.attention": "a kernel of the same function",
    "train.compile": "speed",
    "train.max_skipped_steps": "a guard",
    "train.spikes.*": "a guard: what it did so far is in the checkpoint",
    "train.timeout_seconds": "a guard",
    "train.hang_seconds": "a guard",
    "train.time_limit_seconds": "when to stop, not what to do",
    "train.stop_before_limit_seconds": "when to stop, not what to do",
    "train.log_every_steps": "the console",
    "train.forecast": "looks at the run, does not change it",
    "evaluate.*": "looks at the run, does not change it",
    "checkpoint.*": "looks at the run, does not change it",
    "data.verify_hashes": "a guard",
    "data.prefetch_batches": "speed",
    "data.executor": "how shards are built",
    "data.workers": "how shards are built",
    "data.slurm.*": "how shards are built",
}
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
    def logs(self) -> Path:
        """One log a rank."""
        return self.path / "logs"


def check_run(path: Path, config: Settings) -> RunFolder:
    """The folder of a run that does not exist yet, or that this config goes on with. Writes nothing.

    Raises UserError where the folder holds a run of another config (see MAY_CHANGE), with every key that differs, where
    a process is at it already, and where it cannot be written to.
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
    changes = _differences(_recorded(folder.config, type(config)), config.to_plain())
    if changes:
        lines = [f"  {key}: {there} there, {here} here" for key, (there, here) in changes.items()]
        if len(lines) > _MOST_DIFFERENCES:
            lines[_MOST_DIFFERENCES:] = [f"  and {len(lines) - _MOST_DIFFERENCES} more keys"]
        raise UserError(
            "\n".join([f"run folder {path} holds a run of another config:", *lines])
            + f"\nchoose another run.name for a new run, or go on with this one: lehr train {folder.config}"
        )
    return folder


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


def open_run(path: Path, config: Settings, *, world_size: int, command: Sequence[str] | None = None) -> Claim:
    """Create the folder of a run, or add a start to it, and claim it. For one rank only; `check_run`'s errors apply.

    `command` is recorded as what started the run: by default this process's arguments. Raises RunError where the folder
    cannot be written to.
    """
    folder = check_run(path, config)
    with explained("opening the run folder"):
        for part in (folder.path, folder.checkpoints, folder.logs):
            part.mkdir(parents=True, exist_ok=True)
        claim = Claim.take(folder.checkpoints)
        _record(folder, config, command or ("lehr", *sys.argv[1:]), world_size)
    return claim


def _record(folder: RunFolder, config: Settings, command: Sequence[str], world_size: int) -> None:
    start = _record_of_start(command, world_size)
    starts = _starts(folder.record)
    made_by = f"lehr {start['versions'].get('lehr')}, git {start['git'] or 'unknown'}, {start['date']}"
    write_text(folder.config, f"# {start['command']}\n# {made_by}\n{to_yaml(config)}")
    write_json(folder.record, {"format": 1, "starts": [*starts, start]})


def _recorded(path: Path, schema: type[Settings]) -> object:
    """The recorded config, with today's defaults for keys that were not known then."""
    plain = read_yaml(path)
    try:
        return parse(schema, plain, source=str(path)).to_plain()
    except UserError:
        return plain  # of another version of the schema: the keys that differ say so


def _differences(there: object, here: object) -> dict[str, tuple[str, str]]:
    """Keys that differ and may not. Of two methods with different names the name says it all."""
    old, new = flatten(there), flatten(here)
    keys = [key for key in dict.fromkeys([*new, *old]) if not (key in old and key in new and old[key] == new[key])]
    renamed = [key.removesuffix("name") for key in keys if key.endswith(".name") and key in old and key in new]
    return {
        key: (_shown(old, key), _shown(new, key))
        for key in keys
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in MAY_CHANGE)
        and not any(key.startswith(method) and key != f"{method}name" for method in renamed if method != "run.")
    }


def flatten(value: object, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as dotted keys: `{"a": [{"b": 1}]}` is `{"a.0.b": 1}`; empty ones stay."""
    items: list[tuple[str, object]]
    if isinstance(value, Mapping) and value:
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list) and value:
        items = [(str(index), inner) for index, inner in enumerate(value)]
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else key)
    return flat


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False, default=str) if key in flat else "absent"


def _starts(path: Path) -> list[Any]:
    """The earlier starts. A record that is not readable is set aside, not lost: it says nothing a run needs."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(plain, allow_nan=False)
        return list(plain["starts"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        path.rename(path.with_suffix(".unreadable"))
        return []


def _record_of_start(command: Sequence[str], world_size: int) -> dict[str, Any]:
    return {
        "command": shlex.join(command),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "ranks": world_size,
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
        "git": _git_commit(Path(__file__).parent),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


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
