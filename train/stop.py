"""Asking a run to stop: signals and a time limit, agreed on by all ranks at the end of a step."""

from __future__ import annotations

import signal
import time
from types import FrameType

import torch
import torch.distributed as dist

from parallel.mesh import Mesh

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """Set by the first signal; a second SIGINT ends the process at once."""

    def __init__(self, mesh: Mesh, *, deadline_seconds: float | None = None) -> None:
        self._mesh = mesh
        self._asked = False
        self._deadline = None if deadline_seconds is None else time.monotonic() + deadline_seconds

    def listen(self) -> None:
        """Take over the signals, with those held back while this rank was starting. To be called in the main thread."""
        for number in SIGNALS:
            signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def agreed(self) -> bool:
        """Whether any rank was asked to stop: the same answer on all, a collective."""
        late = self._deadline is not None and time.monotonic() > self._deadline
        flag = torch.tensor(float(self._asked or late), device=self._mesh.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        self._asked = True
