"""The signals that request a run to stop. This file imports nothing slow: the command line starts with its handlers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

# SIGUSR1: Slurm sends it before the time limit. SIGHUP: the terminal has closed.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], object] | signal.Handlers


def set_stop_handlers(handler: Handler) -> None:
    """Sets the handler of all stop signals but those that stay ignored."""
    for number in STOP_SIGNALS:
        if not stays_ignored(number):
            signal.signal(number, handler)


def stays_ignored(number: int) -> bool:
    """Returns whether the signal was ignored when the process started (nohup, a shell's `&`) and has to stay so."""
    return number in (signal.SIGHUP, signal.SIGINT) and signal.getsignal(number) is signal.SIG_IGN
