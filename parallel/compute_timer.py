"""The time that a rank itself computes: its forward and backward passes, without the messages between stages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class ComputeTimer:
    """Sums the time of passes: on a GPU by events in its stream, else on the clock.

    What a pass itself waits for is counted: tensor ranks wait for each other within every layer, and so do data ranks
    under ZeRO 3.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._began = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []  # beginning and end of each pass

    def start(self) -> None:
        """Begins a pass. A pass that was begun and not ended does not count."""
        self._began = time.perf_counter()
        if self._device.type == "cuda":
            self._first_event = torch.cuda.Event(enable_timing=True)
            self._first_event.record()

    def stop(self) -> None:
        """Ends the pass."""
        if self._device.type == "cuda":
            last_event = torch.cuda.Event(enable_timing=True)
            last_event.record()
            self._events.append((self._first_event, last_event))
        else:
            self._seconds += time.perf_counter() - self._began

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measures a pass."""
        self.start()
        yield
        self.stop()

    def take_seconds(self) -> float:
        """Returns the seconds since the last call, and begins anew. The device must have ended the passes."""
        milliseconds: float = sum(first.elapsed_time(last) for first, last in self._events)
        seconds = self._seconds + milliseconds / 1000
        self._seconds, self._events = 0.0, []
        return seconds
