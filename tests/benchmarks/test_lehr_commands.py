"""The lehr commands of a proof: their ends, and a signal between two of them."""

from __future__ import annotations

import os
import signal

import pytest
from lehr_commands import LehrCommands

from launcher.exit_codes import STOPPED_EARLY


def test_a_command_that_fails_ends_the_proof_with_its_words() -> None:
    ended = LehrCommands().run(["train"])
    assert (ended.code, ended.stopped) == (2, False)
    assert ended.cpu_seconds > 0
    with pytest.raises(SystemExit, match="lehr train ended with exit code 2"):
        ended.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_two_commands_keeps_the_next_from_starting(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with LehrCommands() as commands:
        os.kill(os.getpid(), number)
        with pytest.raises(SystemExit) as ended:
            commands.run(["--help"])
    assert ended.value.code == STOPPED_EARLY
    assert signal.getsignal(number) is before
