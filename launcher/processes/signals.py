"""Signals between a launch and its ranks. What a rank does on them is train/safety/preemption.py's."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

# SIGUSR1: Slurm's notice before the time limit. SIGHUP: the terminal is gone; under nohup it stays ignored.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def exit_immediately(*, silently: bool) -> None:
    """While there is nothing to save: a signal to stop ends this process, with a line unless `silently`.

    By no exception: an import or a `finally` could swallow it. Silently it is the kernel that ends it, which can do so
    within a call into C that waits for other ranks, where no handler of Python's would run.
    """
    _set(signal.SIG_DFL if silently else _end)


def defer_signals() -> None:
    """Let signals to stop wait until whoever handles them unblocks them: none is lost, none ends what can save soon."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    _set(_to_this_thread)


def _set(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in STOP_SIGNALS:
        if not (number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN):
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"ended by {signal.Signals(number).name} before there was anything to save\n".encode())
    os._exit(128 + number)


def _to_this_thread(number: int, frame: FrameType | None) -> None:
    """One that reached a thread of a library, which does not block it, waits where it is blocked."""
    signal.pthread_kill(threading.get_ident(), number)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent is gone, however that ends (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it went before the call
        os._exit(128 + signal.SIGKILL)
