"""Signals between a launch and its ranks. What a rank does on them is train/stop.py's."""

from __future__ import annotations

import ctypes
import os
import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # the last: Slurm's notice before the time limit
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def hold_back(*numbers: signal.Signals) -> None:
    """Let signals wait until whoever handles them unblocks them: none is lost, none kills a rank at its start."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent is gone, however that ends (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it went before the call
        os._exit(128 + signal.SIGKILL)
