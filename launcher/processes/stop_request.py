"""A stop signal as a request, for commands that end in good order once they have saved their work."""

from __future__ import annotations

import signal
from types import FrameType

from train.safety.stop_signals import set_stop_handlers


class StopRequest:
    """The first stop signal is a request to stop; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal; 0 if there was none
        set_stop_handlers(self._handle)

    def __call__(self) -> bool:
        """Returns whether a stop was requested."""
        return self.number != 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise SystemExit(128 + number)
        self.number = self.number or number
