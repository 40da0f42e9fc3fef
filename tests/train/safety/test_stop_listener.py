"""The time limit of a run, and a second Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from train.safety.stop_listener import StopListener


def answers_with(*, limit: float | None = 100.0, before: float = 0.0, save: float = 0.0) -> list[bool]:
    """Returns the answers before each of three steps and after the last, with `limit` seconds left at first."""
    end = None if limit is None else time.time() + limit
    listener = StopListener(limit=end, before_limit_seconds=before, save_seconds=lambda: save)
    answers = [listener.stop_requested()]
    for step in (500.0, 40.0, 10.0):
        listener.note_step(step)
        answers.append(listener.stop_requested())
    return answers


def test_a_step_a_save_and_the_margin_must_fit() -> None:
    assert answers_with() == [False, False, False, False]  # the first step of 500 s warms up, and says nothing
    assert answers_with(before=61) == [False, False, True, True]  # the longest step counts, not the last
    assert answers_with(save=61) == [False, False, True, True]
    assert answers_with(save=35, before=35) == [False, False, True, True]
    assert answers_with(before=101) == [True] * 4
    assert answers_with(limit=None, before=101) == [False] * 4


LISTENS = """
import time
from train.safety.stop_listener import StopListener
StopListener().listen()
print("ready", flush=True)
while True: time.sleep(0.05)
"""


def test_a_second_ctrl_c_ends_at_once_but_not_an_echo_of_the_first() -> None:
    with subprocess.Popen([sys.executable, "-c", LISTENS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(2):  # as a terminal and torchrun do, both of the one key
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
