"""A signal to stop where there is nothing to save yet: the process ends at once, says so, and leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import run_ranks, start_lehr

from launcher.processes.signals import STOP_SIGNALS, defer_signals
from train.safety.preemption import Stop


@pytest.fixture(autouse=True)
def hangups_are_not_ignored() -> Iterator[None]:
    """As they are under nohup, which a process that is started here would keep to."""
    kept = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, kept)


def catches(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for a signal."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (caught,) = [line.split()[1] for line in lines if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (number - 1) & 1)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail("did not come to it")
        time.sleep(0.002)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code and outputs of a process that was told to end."""
    try:
        out, errors = process.communicate(timeout=20)
        return process.returncode, out, errors
    finally:
        process.kill()


@pytest.fixture
def endless_config(tmp_path: Path) -> Path:
    """Whoever reads it waits for ever: a process is somewhere between its first import and there."""
    path = tmp_path / "config.yaml"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_while_the_config_is_read(endless_config: Path, number: signal.Signals) -> None:
    process = start_lehr("train", endless_config, cwd=endless_config.parent)
    wait_until(lambda: catches(process, signal.SIGTERM), process)
    time.sleep(random.uniform(0, 2))
    process.send_signal(number)
    said = f"ended by {number.name} before there was anything to save\n"
    assert ended(process) == (128 + number, "", said)
    assert list(endless_config.parent.iterdir()) == [endless_config]


def test_under_nohup_a_hangup_is_none(endless_config: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    process = start_lehr("train", endless_config, cwd=endless_config.parent)
    wait_until(lambda: catches(process, signal.SIGTERM), process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 128 + signal.SIGTERM


TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_STEP_NODELIST": "localhost",
    "MASTER_PORT": "9",
}


@pytest.mark.parametrize("launcher", [TORCHRUN, SRUN])
def test_a_rank_of_another_launcher_ends_too(endless_config: Path, launcher: dict[str, str]) -> None:
    process = start_lehr("train", endless_config, cwd=endless_config.parent, env=launcher)
    wait_until(lambda: not catches(process, signal.SIGINT), process)  # Python itself has one
    time.sleep(random.uniform(0, 2))
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == -signal.SIGINT
    assert list(endless_config.parent.iterdir()) == [endless_config]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, SRUN])
def test_a_rank_that_waits_for_the_others_ends_too(config: Path, launcher: dict[str, str]) -> None:
    process = start_lehr("train", config, "parallel.data=2", env=launcher)
    wait_until((config.parent / "runs" / "try" / "logs" / "rank-00001.log").exists, process)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == -signal.SIGTERM


def is_asked(number: signal.Signals) -> list[bool]:
    """On a rank, whose libraries have threads that block nothing."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stop = Stop()
    defer_signals()
    for _ in range(20):
        os.kill(os.getpid(), number)
        time.sleep(0.01)
    before = stop.asked()
    stop.listen()
    return [before, stop.asked()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_is_held_back_is_not_lost(number: signal.Signals) -> None:
    assert run_ranks(2, is_asked, number) == [[False, True]] * 2
