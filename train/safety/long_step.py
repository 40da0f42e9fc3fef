"""A step that takes long: its progress is printed now and then, and a stop does not wait for its end.

A step of many micro-batches can take hours. It is dropped between two of them: no weight and no optimizer state has
changed, and the resumed run takes the whole step again. Short steps never come here: a rank looks at nothing but the
clock until a step has taken `_LOOK_SECONDS`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch._C._distributed_c10d import Store

from parallel.mesh import Mesh
from settings.durations import format_duration
from train.safety.micro_batch_agreement import MicroBatchAgreement
from train.safety.stop_listener import StopListener
from train.safety.tracked import Tracked

T = TypeVar("T")

_LOOK_SECONDS = 1.0
_PRINT_SECONDS = 30.0


class StepDroppedError(Exception):
    """The step ends between two micro-batches, on all ranks. Its gradients are worth nothing."""


class LongStep:
    """Watches the steps of one rank, one after the other, between their micro-batches."""

    def __init__(
        self,
        store: Store,
        stop_listener: StopListener,
        *,
        mesh: Mesh,
        can_drop: bool,
        notice: Callable[[str], None],
    ) -> None:
        """`can_drop`: whether the layout allows a step to end between micro-batches. `notice` prints a line."""
        self._store = store
        self._stop_listener = stop_listener
        self._mesh = mesh
        self._can_drop = can_drop
        self._notice = notice

    def track(self, micro_batches: Sequence[T], *, step: int) -> Sequence[T]:
        """Returns the micro-batches of step number `step`. Taking one of them may raise StepDroppedError."""
        self._step = step
        self._agreement = MicroBatchAgreement(
            self._store,
            step=step,
            count=len(micro_batches),
            rank=self._mesh.rank,
            data_rank=self._mesh.data.rank,
            world_size=self._mesh.world_size,
        )
        self._dropping = False
        self._began = time.monotonic()
        self._next_look, self._next_print = self._began + _LOOK_SECONDS, self._began + _PRINT_SECONDS
        return Tracked(micro_batches, self._before_micro_batch)

    def _before_micro_batch(self, index: int, count: int) -> None:
        now = time.monotonic()
        if index == 0 or now < self._next_look:
            return
        micro_batch_seconds = (now - self._began) / index
        seconds_left = (count - index) * micro_batch_seconds
        if now >= self._next_print:
            self._next_print = now + _PRINT_SECONDS
            left = format_duration(seconds_left)
            self._notice(f"step {self._step}: {index} of {count} micro-batches, {left} left of the step")
        if not self._dropping:
            self._next_look = now + _LOOK_SECONDS
            self._dropping = self._can_drop and self._is_drop_requested(seconds_left, micro_batch_seconds)
        if self._dropping:  # then it looks before every micro-batch
            self._next_look = now
            if self._agreement.ends_before(index):
                self._notice(f"step {self._step} is dropped after {index} of {count} micro-batches, to stop the run")
                raise StepDroppedError

    def _is_drop_requested(self, seconds_left: float, micro_batch_seconds: float) -> bool:
        if self._stop_listener.stop_requested_within_step(seconds_left, next_seconds=micro_batch_seconds):
            self._agreement.request()
            return True
        return self._agreement.is_requested()
