"""The writer lease of a run: the process that took it last may write its checkpoints and metrics, and no other.

    checkpoints/claim.json        the holder: token, host, process, date
    checkpoints/.claim-00000005/  the workspace in which the holder of token 5 prepares everything that it publishes

Tokens only grow. A checkpoint or `latest` is prepared in the holder's workspace and published by one rename out of it;
a checkpoint is retired by one rename into it. A newer lease first moves the workspaces of all older ones into its own:
from then on every rename of an older holder fails, however late it wakes up. So a process that was stopped, or cut off
on an isolated node, cannot overwrite what a newer one has written; it finds out at its next look.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Literal

from pydantic import Field

from settings import RunError, Settings, UserError, parse
from settings.files import flush_folder, write_json
from settings.processes import process_state

FILE_NAME = "claim.json"
_FOLDER_NAME = re.compile(r"\.claim-(\d{8,18})")


class LeaseRecord(Settings):
    """The content of claim.json."""

    format: Literal[1] = 1
    token: int = Field(ge=1, lt=10**15)
    host: str
    boot: str  # of the host's kernel: process numbers mean nothing across boots
    pid: int = Field(ge=1)
    started: int  # when the process began, in the kernel's ticks: a process number may be reused
    date: str
    job: str = ""  # the Slurm job, as `job 12 attempt 2`

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.date}{f' ({self.job})' if self.job else ''}"


class FencedError(RunError):
    """A newer process has taken the lease: this one must not write into the folder any more."""

    kind = "fenced"


class WriterLease:
    """The right to write into a folder of checkpoints, until a newer lease is taken."""

    def __init__(self, folder: Path, record: LeaseRecord) -> None:
        self.folder = folder
        self.record = record
        self.workspace = _workspace(folder, record.token)

    @classmethod
    def take(cls, folder: Path, *, job: str = "") -> WriterLease:
        """Takes the lease of `folder` and fences all earlier holders. `job` is recorded. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            record = read_lease(folder)
            token = 1 + max([record.token if record else 0, *_tokens(folder)])
            try:
                _workspace(folder, token).mkdir()
                break
            except FileExistsError:
                continue  # another process takes it at this moment: the later one wins
        lease = cls(folder, _own_record(token, job))
        for older in _tokens(folder):
            if older < token:
                with contextlib.suppress(FileNotFoundError):
                    os.rename(_workspace(folder, older), lease.workspace / f"fenced-{older}")
                shutil.rmtree(lease.workspace / f"fenced-{older}", ignore_errors=True)
        write_json(lease.workspace / FILE_NAME, lease.record.to_plain())
        lease.publish(lease.workspace / FILE_NAME, folder / FILE_NAME)
        return lease

    def check(self) -> None:
        """Raises FencedError if a newer lease was taken. Costs one look at the file system."""
        if self.workspace.is_dir():
            return
        newer = read_lease(self.folder)
        if newer is None or newer.token <= self.record.token:
            reason = f"{self.workspace} is gone: somebody removed it, or is taking over the run at this moment"
        else:
            reason = f"the run in {self.folder.parent} was taken over by {newer} (lease {newer.token})"
        raise FencedError(
            f"{reason}; this process, with lease {self.record.token} since {self.record.date}, "
            "stops without writing anything more"
        )

    def publish(self, source: Path, target: Path) -> None:
        """Moves what was prepared in the workspace to its place. Raises FencedError, OSError."""
        self._rename(source, target)
        flush_folder(target.parent)

    def retire(self, path: Path) -> None:
        """Removes a published folder, at once or not at all. Raises FencedError, OSError."""
        retired = self.workspace / f"removed-{path.name}"
        shutil.rmtree(retired, ignore_errors=True)
        self._rename(path, retired)
        shutil.rmtree(retired, ignore_errors=True)

    def release(self) -> None:
        """Removes the workspace. claim.json stays: it names the last holder."""
        shutil.rmtree(self.workspace, ignore_errors=True)

    def _rename(self, source: Path, target: Path) -> None:
        self.check()
        try:
            os.rename(source, target)
        except FileNotFoundError:
            self.check()  # a newer lease was taken in between
            raise


def read_lease(folder: Path) -> LeaseRecord | None:
    """Reads the last lease of a folder; None if there is none or it cannot be read (the workspaces still count)."""
    try:
        with (folder / FILE_NAME).open("rb") as file:
            plain = json.loads(file.read(2**16))
        return parse(LeaseRecord, plain, source=FILE_NAME)
    except (OSError, ValueError, RecursionError):
        return None


def check_not_running(folder: Path) -> None:
    """Raises UserError if the last holder of a folder's lease is alive, on this machine.

    A process that is stopped (SIGSTOP) or runs on another host may be dead, for all that can be known here: its lease
    is taken over, and if it comes back it is fenced.
    """
    record = running_holder(folder)
    if record is not None and record.pid != os.getpid():
        raise UserError(
            f"the run in {folder.parent} is being trained already, by {record}; "
            "stop that one first (it saves a checkpoint), or choose another run.name"
        )


def running_holder(folder: Path) -> LeaseRecord | None:
    """Returns the holder of a folder's lease if it is alive on this machine; None if it is not, or cannot be known."""
    record = _unreleased(folder)
    if record is None or (record.host, record.boot) != (platform.node(), _boot()):
        return None
    return record if _is_running(record) else None


def unreleased_host(folder: Path) -> str | None:
    """Returns the host of a holder that has not released the lease, if it is another host; else None."""
    record = _unreleased(folder)
    return None if record is None or record.host == platform.node() else record.host


def _unreleased(folder: Path) -> LeaseRecord | None:
    record = read_lease(folder)
    return record if record is not None and _workspace(folder, record.token).is_dir() else None


def _workspace(folder: Path, token: int) -> Path:
    return folder / f".claim-{token:08d}"


def _tokens(folder: Path) -> list[int]:
    return [int(match[1]) for path in folder.iterdir() if (match := _FOLDER_NAME.fullmatch(path.name))]


def _own_record(token: int, job: str) -> LeaseRecord:
    state = process_state(os.getpid())
    return LeaseRecord(
        token=token,
        host=platform.node(),
        boot=_boot(),
        pid=os.getpid(),
        started=state.started_ticks if state else 0,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        job=job,
    )


def _is_running(record: LeaseRecord) -> bool:
    state = process_state(record.pid)
    return state is not None and state.started_ticks == record.started and state.letter not in "TtZXx"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
