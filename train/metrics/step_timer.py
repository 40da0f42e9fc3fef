"""How long steps take: all of a run's time except that of evaluations, saves and rollbacks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StepTimer:
    """A step ends when its loss is known on the host, and the next one begins there.

    On a GPU the optimizer still works at that point; its time counts for the next step, as waiting for data and writing
    metrics do. So every moment belongs to exactly one step: the steps add up to the time that passed, less the
    `excluded` time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.start()

    def start(self) -> None:
        """Begins the first step."""
        self._since = time.perf_counter()

    def end_step(self) -> float:
        """Returns the seconds since the last step ended. To be called when the loss is on the host."""
        before, self._since = self._since, time.perf_counter()
        return self._since - before

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """Excludes what runs within from the steps' time; the device finishes its earlier work first."""
        began = self._time_when_idle()
        try:
            yield
        finally:
            self._since += self._time_when_idle() - began

    def _time_when_idle(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
