"""Stop signals while there is nothing to save yet: the process ends at once with the right exit code."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from forked_lehr import ForkedLehr
from processes import exec_lehr, run_ranks, start_lehr

from launcher.processes.signals import defer_signals, exit_if_stuck
from train.safety.stop_listener import StopListener
from train.safety.stop_signals import STOP_SIGNALS

Process = subprocess.Popen[str] | ForkedLehr

# The commands that must be equal: the module and the entry point.
MODULE = [sys.executable, "-m", "launcher"]
ENTRY_POINT = [str(Path(sys.executable).with_name("lehr"))]


@pytest.fixture(autouse=True)
def no_signal_is_ignored() -> Iterator[None]:
    """Sets the defaults, which the processes of a test inherit: nohup and a shell's `&` let the tests ignore some."""
    before = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler))
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def has_handler(process: Process, number: signal.Signals) -> bool:
    """Returns whether the process has a handler of its own for a signal."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (caught,) = [line.split()[1] for line in lines if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (number - 1) & 1)


def wait_until(condition: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail("the condition did not become true")
        time.sleep(0.001)


def ended(process: Process) -> tuple[int, str, str]:
    """Returns the exit code and the outputs of a process that was sent a signal."""
    try:
        out, errors = process.communicate(timeout=60)
        return process.returncode, out, errors
    finally:
        process.kill()


@pytest.fixture
def endless_config(tmp_path: Path) -> Path:
    """A config whose reader waits for ever: a process is somewhere between its first import and there."""
    path = tmp_path / "config.yaml"
    os.mkfifo(path)
    return path


def wait_for_reader(fifo: Path, process: Process) -> int:
    """Waits until the process reads the config. Returns the descriptor whose closing would end the reading."""
    writers: list[int] = []

    def has_reader() -> bool:
        try:
            writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # ENXIO: nobody has opened it for reading
            return False
        return True

    wait_until(has_reader, process)
    return writers[0]


def nothing_saved(number: signal.Signals) -> str:
    return f"ended by {number.name} before there was anything to save\n"


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("command", [MODULE, ENTRY_POINT], ids=["module", "entry point"])
def test_in_the_first_instant(endless_config: Path, command: list[str], number: signal.Signals) -> None:
    """The signal comes as soon as the handlers are set, before the command line is imported."""
    process = subprocess.Popen(
        [*command, "train", "config.yaml"],
        cwd=endless_config.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: all(has_handler(process, each) for each in STOP_SIGNALS), process)
    process.send_signal(number)
    code, out, errors = ended(process)
    assert (code, out) == (128 + number, "")
    assert errors in (nothing_saved(number), f"ended by {number.name}\n")


def test_the_handlers_come_before_the_slow_imports() -> None:
    code = "import sys, launcher.__main__; print(sorted({'typer', 'rich', 'pydantic', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_in_the_first_seconds(endless_config: Path, number: signal.Signals) -> None:
    process = exec_lehr("train", endless_config, cwd=endless_config.parent)
    wait_until(lambda: all(has_handler(process, each) for each in STOP_SIGNALS), process)
    time.sleep(random.uniform(0, 2))
    process.send_signal(number)
    code, out, errors = ended(process)
    assert (code, out) == (128 + number, "")
    assert errors in (nothing_saved(number), f"ended by {number.name}\n")
    assert list(endless_config.parent.iterdir()) == [endless_config]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_while_the_config_is_read(endless_config: Path, number: signal.Signals) -> None:
    process = start_lehr("train", endless_config, cwd=endless_config.parent)
    writer = wait_for_reader(endless_config, process)
    process.send_signal(number)
    assert ended(process) == (128 + number, "", nothing_saved(number))
    os.close(writer)
    assert list(endless_config.parent.iterdir()) == [endless_config]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_removes_its_staging_folder(
    tmp_path: Path, trained: Path, number: signal.Signals
) -> None:
    """`lehr export` writes a folder that appears complete or not at all; here its writing never ends."""
    endless = (
        "import time, launcher.commands.export as export\n"
        "export._write_weights = lambda *a, **k: (print('writes', flush=True), time.sleep(1000))\n"
    )
    process = start_lehr("export", trained, tmp_path / "exported", before=endless)
    assert process.stdout.readline() == "writes\n"
    assert [path.name for path in tmp_path.iterdir()] == [".exported.partial"]
    process.send_signal(number)
    assert ended(process) == (128 + number, "", f"ended by {number.name}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_was_ignored_stays_ignored(endless_config: Path, number: signal.Signals) -> None:
    """nohup ignores SIGHUP, and a shell without job control ignores SIGINT for a command with `&`."""
    signal.signal(number, signal.SIG_IGN)
    others = [each for each in STOP_SIGNALS if each != number]
    process = exec_lehr("train", endless_config, cwd=endless_config.parent)
    wait_until(lambda: all(has_handler(process, each) for each in others), process)
    process.send_signal(number)
    writer = wait_for_reader(endless_config, process)
    process.send_signal(number)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (128 + signal.SIGTERM, "", nothing_saved(signal.SIGTERM))
    os.close(writer)


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


@pytest.mark.slow
@pytest.mark.parametrize("variables", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_a_rank_of_another_launcher_ends_silently(endless_config: Path, variables: dict[str, str]) -> None:
    process = start_lehr("train", endless_config, cwd=endless_config.parent, env=variables)
    writer = wait_for_reader(endless_config, process)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (-signal.SIGINT, "", "")
    os.close(writer)
    assert list(endless_config.parent.iterdir()) == [endless_config]


@pytest.mark.slow
@pytest.mark.parametrize("variables", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_a_rank_that_waits_for_the_others_ends_too(config: Path, variables: dict[str, str]) -> None:
    process = start_lehr("train", config, "parallel.data=2", env={**variables, "LOCAL_RANK": "0", "SLURM_LOCALID": "0"})
    assert "waits for rank 0 at MASTER_ADDR" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == -signal.SIGTERM
    assert not (config.parent / "runs").exists()


def asked_before_and_after_listening(number: signal.Signals) -> list[bool]:
    """Runs on a rank, whose libraries have threads that block no signal."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    listener = StopListener()
    defer_signals()
    for _ in range(20):
        os.kill(os.getpid(), number)
        time.sleep(0.01)
    before = listener.stop_requested()
    listener.listen()
    return [before, listener.stop_requested()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_deferred_signal_is_not_lost(number: signal.Signals) -> None:
    assert run_ranks(2, asked_before_and_after_listening, number) == [[False, True]] * 2


STUCK = """
import ctypes, os, signal
from launcher.processes.signals import defer_signals, exit_if_stuck
defer_signals()
with exit_if_stuck(seconds=0.5):
    print("waits", flush=True)
    while True:
        ctypes.CDLL(None).sleep(1000)  # as a collective does: in C, without Python's lock
"""


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_deferred_signal_ends_a_rank_that_is_stuck(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    process.send_signal(number)
    assert ended(process) == (128 + number, "", f"ended by {number.name} while the ranks wait for each other\n")


def asked_after_a_wait(number: signal.Signals) -> bool:
    """Runs on a rank, which receives the signal while it waits for another one."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    listener = StopListener()
    defer_signals()
    with exit_if_stuck():
        os.kill(os.getpid(), number)
        dist.barrier()
    listener.listen()
    return listener.stop_requested()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_while_ranks_wait_for_each_other_is_not_lost(number: signal.Signals) -> None:
    assert run_ranks(2, asked_after_a_wait, number) == [True, True]
