"""When a run is late, that all ranks agree on it, and what a second Ctrl-C does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from processes import run_ranks

from parallel.config import ParallelConfig
from parallel.mesh import make_mesh
from train.stop import Stop


def looks(limits: list[float | None], before: float, save: float, steps: list[float]) -> list[bool]:
    """Of a rank with `limits[rank]` seconds left: the answers before each step, and after the last."""
    mesh = make_mesh(ParallelConfig(data=len(limits)), timeout_seconds=60)
    seconds = limits[mesh.rank]
    limit = None if seconds is None else time.time() + seconds
    stop = Stop(mesh, limit=limit, before_limit_seconds=before, save_seconds=lambda: save)
    answers = [stop.agreed()]
    for step in steps:
        stop.step_took(step)
        answers.append(stop.agreed())
    return answers


def test_a_step_a_save_and_the_margin_must_fit() -> None:
    def of(**more: float) -> list[bool]:
        given = {"before": 0.0, "save": 0.0, **more}
        return run_ranks(1, looks, [100.0], given["before"], given["save"], [500.0, 40.0, 10.0])[0]

    assert of() == [False, False, False, False]  # the first step of 500 s warms up, and says nothing
    assert of(before=61) == [False, False, True, True]  # the longest step counts, not the last
    assert of(save=61) == [False, False, True, True]
    assert of(save=35, before=35) == [False, False, True, True]
    assert of(before=101) == [True] * 4


def test_all_ranks_stop_where_one_is_late() -> None:
    assert run_ranks(2, looks, [None, 5.0], 10.0, 0.0, []) == [[True], [True]]
    assert run_ranks(2, looks, [None, None], 10.0, 0.0, [1.0]) == [[False, False]] * 2


LISTENS = """
import time
from train.stop import Stop
Stop(None).listen()
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
        assert process.wait(5) == 130
