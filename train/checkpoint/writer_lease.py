"""Who may write into a run's checkpoints and metrics: the process that claimed them last, and no other.

    checkpoints/claim.json        who claimed them: token, host, process, date
    checkpoints/.claim-00000005/  where the owner of token 5 prepares everything that it publishes

Tokens only grow. What is published (a checkpoint, `latest`) is prepared in the owner's folder and moved out of it by
one rename; what is pruned is moved into it by one. A newer claim first moves the folders of all older ones into its
own: from then on every rename of an older owner fails, whenever it wakes up, however late. So a process that was
stopped, or cut off on an isolated node, cannot write over what a newer one has written; it finds out at its next look.
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
    started: int  # when the process began, in the kernel's ticks: a number may be given again
    date: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.date}"


class FencedError(RunError):
    """A newer process has claimed the folder: this one must not write into it any more."""


class WriterLease:
    """The right to write into a folder of checkpoints, until a newer claim is made."""

    def __init__(self, folder: Path, record: LeaseRecord) -> None:
        self.folder = folder
        self.record = record
        self.workspace = _workspace(folder, record.token)

    @classmethod
    def take(cls, folder: Path) -> WriterLease:
        """Claim `folder` and shut out all earlier owners. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            record = read_lease(folder)
            token = 1 + max([record.token if record else 0, *_tokens(folder)])
            try:
                _workspace(folder, token).mkdir()
                break
            except FileExistsError:
                continue  # another claims at this moment: the later one wins
        lease = cls(folder, _own_record(token))
        for older in _tokens(folder):
            if older < token:
                with contextlib.suppress(FileNotFoundError):
                    os.rename(_workspace(folder, older), lease.workspace / f"fenced-{older}")
                shutil.rmtree(lease.workspace / f"fenced-{older}", ignore_errors=True)
        write_json(lease.workspace / FILE_NAME, lease.record.to_plain())
        lease.publish(lease.workspace / FILE_NAME, folder / FILE_NAME)
        return lease

    def check(self) -> None:
        """Raise FencedError where a newer claim was made. Costs one look at the file system."""
        if self.workspace.is_dir():
            return
        newer = read_lease(self.folder)
        if newer is None or newer.token <= self.record.token:
            reason = f"{self.workspace} is gone: somebody removed it, or is claiming the run at this moment"
        else:
            reason = f"the run in {self.folder.parent} was taken over by {newer} (claim {newer.token})"
        raise FencedError(
            f"{reason}; this process, with claim {self.record.token} since {self.record.date}, "
            "stops without writing anything more"
        )

    def publish(self, source: Path, target: Path) -> None:
        """Move what was prepared in the workspace to where it is looked for. Raises FencedError, OSError."""
        self._rename(source, target)
        flush_folder(target.parent)

    def withdraw(self, path: Path) -> None:
        """Remove a folder that was published: gone at once or not at all, whenever this process ends."""
        aside = self.workspace / f"removed-{path.name}"
        shutil.rmtree(aside, ignore_errors=True)
        self._rename(path, aside)
        shutil.rmtree(aside, ignore_errors=True)

    def release(self) -> None:
        """Clear the workspace away. claim.json stays: it says who was last."""
        shutil.rmtree(self.workspace, ignore_errors=True)

    def _rename(self, source: Path, target: Path) -> None:
        self.check()
        try:
            os.rename(source, target)
        except FileNotFoundError:
            self.check()  # a newer claim came in between
            raise


def read_lease(folder: Path) -> LeaseRecord | None:
    """The last claim of a folder; None where there is none or it cannot be read (the claim folders still count)."""
    try:
        with (folder / FILE_NAME).open("rb") as file:
            plain = json.loads(file.read(2**16))
        return parse(LeaseRecord, plain, source=FILE_NAME)
    except (OSError, ValueError, RecursionError):
        return None


def check_not_running(folder: Path) -> None:
    """Raise UserError where the last owner of a folder is clearly alive, on this machine.

    A process that is stopped (SIGSTOP) or runs on another host may be dead for all that can be known here: its claim is
    taken over, and if it comes back it is shut out.
    """
    record = read_lease(folder)
    if record is None or record.pid == os.getpid() or not _workspace(folder, record.token).is_dir():
        return  # never claimed, by us, or released
    if (record.host, record.boot) == (platform.node(), _boot()) and _is_running(record):
        raise UserError(
            f"the run in {folder.parent} is being trained already, by {record}; "
            "stop that one first (it saves a checkpoint), or choose another run.name"
        )


def _workspace(folder: Path, token: int) -> Path:
    return folder / f".claim-{token:08d}"


def _tokens(folder: Path) -> list[int]:
    return [int(match[1]) for path in folder.iterdir() if (match := _FOLDER_NAME.fullmatch(path.name))]


def _own_record(token: int) -> LeaseRecord:
    state = process_state(os.getpid())
    return LeaseRecord(
        token=token,
        host=platform.node(),
        boot=_boot(),
        pid=os.getpid(),
        started=state.started_ticks if state else 0,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _is_running(record: LeaseRecord) -> bool:
    state = process_state(record.pid)
    return state is not None and state.started_ticks == record.started and state.letter not in "TtZXx"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
