"""Requests to stop a run: signals and a time limit.

All ranks agree on them before each step (train/step_agreement.py), and within a long step between its micro-batches
(train/safety/long_step.py).
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from types import FrameType

from train.safety.stop_signals import STOP_SIGNALS, set_stop_handlers

_STEPS = 50  # the next step may take as long as the longest of so many
FINISH_SECONDS = 10.0  # a signal lets a step end that takes no longer; torchrun and Slurm kill 30 s after theirs
_ONE_CTRL_C_SECONDS = 0.5  # a terminal and torchrun both send a rank the signal of a single Ctrl-C


class StopListener:
    """Remembers the first signal to stop; a second Ctrl-C ends the process at once, with exit code 130."""

    def __init__(
        self,
        *,
        limit: float | None = None,
        before_limit_seconds: float = 0.0,
        save_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`limit` is when the run will be ended from outside, on time.time()'s clock; None if it will not.

        The stop is requested early enough for one more step, a save as long as the last one (`save_seconds`), and
        `before_limit_seconds` besides.
        """
        self._limit = limit
        self._before_limit_seconds = before_limit_seconds
        self._save_seconds = save_seconds
        self._signalled_at: float | None = None
        self._step_seconds: deque[float] = deque(maxlen=_STEPS)
        self._is_first_step = True

    def listen(self) -> None:
        """Takes over the signals, including those deferred while this rank was starting. For the main thread only."""
        set_stop_handlers(self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def note_step(self, seconds: float) -> None:
        """Notes how long a step took. The first step compiles and warms up, so it is not representative."""
        if not self._is_first_step:
            self._step_seconds.append(seconds)
        self._is_first_step = False

    def stop_requested(self) -> bool:
        """Returns whether this rank received a signal to stop, or has no time for one more step."""
        return self._signalled_at is not None or self._is_late(max(self._step_seconds, default=0.0))

    def stop_requested_within_step(self, seconds_left: float, *, next_seconds: float) -> bool:
        """Returns whether this rank should drop its step, which takes `seconds_left` more.

        A signal lets a step end that soon ends. The time limit must leave `next_seconds`, those of a micro-batch.
        """
        return (self._signalled_at is not None and seconds_left > FINISH_SECONDS) or self._is_late(next_seconds)

    def _is_late(self, seconds: float) -> bool:
        """Returns whether `seconds` more and a save would end too close to the limit."""
        if self._limit is None:
            return False
        needed = seconds + self._save_seconds() + self._before_limit_seconds
        return time.time() + needed > self._limit

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._signalled_at is None:
            self._signalled_at = now
        elif number == signal.SIGINT and now - self._signalled_at > _ONE_CTRL_C_SECONDS:
            os._exit(128 + signal.SIGINT)
