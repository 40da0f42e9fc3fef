"""Processes as the Linux kernel knows them: the state of one, and its end together with its parent's."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class ProcessState:
    """The fields of /proc/PID/stat that lehr reads (proc(5), fields 3 and 22)."""

    letter: str  # R, S, D, T, t, Z, X
    started_ticks: int  # since the boot: with it a process differs from a later one of the same number


def process_state(pid: int) -> ProcessState | None:
    """Reads the state of a process; None if there is no such process or no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return ProcessState(fields[0], int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None


def die_with_parent(parent_pid: int) -> None:
    """Asks the kernel to kill this process when its parent ends, however the parent ends. Does nothing but on Linux.

    Raises OSError if the kernel refuses.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # the parent ended before the call
        os._exit(128 + signal.SIGKILL)
