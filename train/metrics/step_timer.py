"""How long steps take: all of a run's time but what evaluations, saves and rollbacks take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StepTimer:
    """A step ends where the last one's loss is known on the host, and the next begins there.

    On a GPU the optimizer still works at that point; what it takes falls to the next step, as waiting for data and
    writing metrics do. So steps leave nothing out and count nothing twice: they add up to the time that passed, less
    what was `apart`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.start()

    def start(self) -> None:
        """The first step begins here."""
        self._since = time.perf_counter()

    def step_ended(self) -> float:
        """The seconds since the step before ended. To be called when the loss is on the host."""
        before, self._since = self._since, time.perf_counter()
        return self._since - before

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What is done within is no part of a step; what the device had to do before is."""
        began = self._when_idle()
        try:
            yield
        finally:
            self._since += self._when_idle() - began

    def _when_idle(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
