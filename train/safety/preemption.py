"""Asking a run to stop: signals and a time limit. All ranks hear of it with the next batch (train/batches.py)."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from types import FrameType

from train.safety.stop_signals import STOP_SIGNALS, set_stop_handlers

_STEPS = 50  # the longest of so many is what the next one may take
_ONE_CTRL_C_SECONDS = 0.5  # a terminal and torchrun both tell a rank of the same one


class Stop:
    """Set by the first signal; a second Ctrl-C ends the process at once, with exit code 130."""

    def __init__(
        self,
        *,
        limit: float | None = None,
        before_limit_seconds: float = 0.0,
        save_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`limit`: when the run will be ended from outside, on time.time()'s clock; None: never.

        The stop comes early enough for one more step and a save, as long as they took so far (`save_seconds`: the last
        one), and `before_limit_seconds` besides.
        """
        self._limit = limit
        self._before_limit_seconds = before_limit_seconds
        self._save_seconds = save_seconds
        self._asked_at: float | None = None
        self._step_seconds: deque[float] = deque(maxlen=_STEPS)
        self._first = True

    def listen(self) -> None:
        """Take over the signals, with those held back while this rank was starting. To be called in the main thread."""
        set_stop_handlers(self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def step_took(self, seconds: float) -> None:
        """Tell of a step. The first one compiles and warms up, so it says nothing of the others."""
        if not self._first:
            self._step_seconds.append(seconds)
        self._first = False

    def asked(self) -> bool:
        """Whether this rank was asked to stop, or has no time for one more step."""
        return self._asked_at is not None or self._is_late()

    def _is_late(self) -> bool:
        if self._limit is None:
            return False
        needed = max(self._step_seconds, default=0.0) + self._save_seconds() + self._before_limit_seconds
        return time.time() + needed > self._limit

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif number == signal.SIGINT and now - self._asked_at > _ONE_CTRL_C_SECONDS:
            os._exit(128 + signal.SIGINT)
