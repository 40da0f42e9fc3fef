"""The watchdog: which silence is a hang, which is not, and its report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
import torch.distributed as dist
from processes import run_ranks

from settings import UserError, parse
from train.checkpoint.manager import _WRITE_TIMEOUT
from train.config import FIRST_TIME_FACTOR, TrainConfig
from train.safety.watchdog import SAVE_TIME_FACTOR, Hang, Watchdog

HANG_SECONDS = 1.0


class Told:
    """Keeps what a watchdog found, for the main thread to wait for."""

    def __init__(self) -> None:
        self.found: list[Hang] = []
        self.event = threading.Event()

    def __call__(self, hang: Hang) -> None:
        self.found.append(hang)
        self.event.set()


def test_no_progress_is_a_hang_and_names_the_place() -> None:
    told = Told()
    watchdog = Watchdog(HANG_SECONDS, told)
    watchdog.start()
    watchdog.set_phase("step", "1")
    watchdog.set_phase("step", "2")
    for part in watchdog.track_progress(["a", "b", "c"]):
        if part == "b":
            began = time.monotonic()
            assert told.event.wait(100)
    assert time.monotonic() - began >= HANG_SECONDS
    (hang,) = told.found
    assert "at step 2, micro-batch 2 of 3, in test_no_progress_is_a_hang_and_names_the_place at tests/" in hang.position
    assert "told.event.wait(100)" in hang.main_stack
    assert "_pytest" not in hang.main_stack  # outwards of `start` nothing is shown
    assert hang.main_stack in hang.stacks
    watchdog.close()


def test_progress_of_any_kind_is_none() -> None:
    told = Told()
    watchdog = Watchdog(HANG_SECONDS, told)
    watchdog.start()
    for kind in ("step", "evaluation"):
        watchdog.set_phase(kind)
        watchdog.set_phase(kind)
        for _ in watchdog.track_progress(range(6)):
            time.sleep(0.3 * HANG_SECONDS)
    assert not told.found
    watchdog.close()


@pytest.mark.slow
def test_the_first_of_a_kind_and_a_save_have_patience() -> None:
    told = Told()
    watchdog = Watchdog(HANG_SECONDS, told)
    watchdog.start()
    for _ in range(2):
        watchdog.set_phase("save", timeout_factor=FIRST_TIME_FACTOR)
        assert not told.event.wait(2 * HANG_SECONDS)
    watchdog.set_phase("step", "1")
    assert not told.event.wait(2 * HANG_SECONDS)
    watchdog.set_phase("step", "2")
    assert told.event.wait(100)
    watchdog.close()


def train_config(**times: float) -> TrainConfig:
    return parse(TrainConfig, {"steps": 1, "seq_length": 1, "global_batch_size": 1, **times}, source="a test")


def test_a_watchdog_speaks_before_a_collective_fails() -> None:
    assert (train_config().hang_after_seconds, train_config().timeout_seconds) == (300, 1800)
    assert train_config().hang_after_seconds * SAVE_TIME_FACTOR < _WRITE_TIMEOUT.total_seconds()
    for times in ({}, {"timeout_seconds": 7200}, {"timeout_seconds": 1}, {"timeout_seconds": 60, "hang_seconds": 14.9}):
        config = train_config(**times)
        assert config.hang_after_seconds * FIRST_TIME_FACTOR < config.timeout_seconds
    for hang_seconds in (15, 60, 1000):
        with pytest.raises(UserError, match=r"set timeout_seconds above .*, or hang_seconds below 15"):
            train_config(timeout_seconds=60, hang_seconds=hang_seconds)


PAUSED = """
import sys, time
from train.safety.watchdog import Watchdog
watchdog = Watchdog(2.0, lambda hang: print("hang", hang.position, flush=True))
watchdog.start()
watchdog.set_phase("step", "1")
print("ready", flush=True)
for number in range(12):
    watchdog.set_phase("step", str(number))
    time.sleep(0.5)
watchdog.close()
print("done", flush=True)
"""


@pytest.mark.slow
def test_a_pause_of_the_whole_process_is_no_hang() -> None:
    with subprocess.Popen([sys.executable, "-c", PAUSED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(1.0)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(5.0)
        os.kill(process.pid, signal.SIGCONT)
        rest = process.stdout.read()
    assert rest == "done\n"


def test_a_rank_that_waits_in_a_collective_says_in_which() -> None:
    with pytest.raises(AssertionError) as error:  # rank 0 never gets its sum: it is ended after its word was given
        run_ranks(2, waits_and_tells, timeout=12)
    assert "in all_reduce of tests/train/safety/test_watchdog.py" in str(error.value)


def waits_and_tells() -> None:
    if dist.get_rank() == 0:
        watchdog = Watchdog(HANG_SECONDS, lambda hang: (print(hang.position, flush=True), os._exit(1)))
        watchdog.start()
        watchdog.set_phase("step", "1")
        watchdog.set_phase("step", "2")
        dist.all_reduce(torch.zeros(1))
    time.sleep(6)
