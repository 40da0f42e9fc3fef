"""lehr's own launcher, with real processes that fail, hang, are killed and receive stop signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from settings.processes import process_state

# A rank is a new program or the forked process itself: every test holds for both.
LAUNCH = """
import os, sys
from pathlib import Path
from launcher.processes.local_launcher import run_ranks
start_method, program, count, log_folder = sys.argv[1:]
start = {
    "exec": lambda rank_info: os.execv(sys.executable, [sys.executable, "-c", program]),
    "fork": lambda rank_info: (exec(program, {"__name__": "rank"}), sys.exit(0)),
}[start_method]
sys.exit(run_ranks(start, count=int(count), log_folder=Path(log_folder)))
"""
# Every rank of these tests begins with this. The pid files name the processes that must have ended after the test.
BEGIN = """
import os, signal, sys, time
from pathlib import Path
from launcher.processes.environment import read_rank_info
from launcher.processes.failure_reports import FailureReport, send_report
from train.safety.stop_signals import STOP_SIGNALS
from settings import UserError
from settings.processes import die_with_parent, process_state
rank_info = read_rank_info()
die_with_parent(rank_info.parent.pid)
folder = Path(os.environ["TEST_FOLDER"])
def mark(name, pid):
    (folder / f"{name}.partial").write_text(str(pid))
    (folder / f"{name}.partial").rename(folder / f"{name}.pid")
mark(f"rank-{rank_info.rank}", os.getpid())
def fail(error):
    send_report(FailureReport.from_error(error), rank_info.parent.report_fd)
    os._exit(2 if isinstance(error, UserError) else 1)
def on_stop(code):
    def handle(number, frame):
        print("stopping by", signal.Signals(number).name)
        sys.exit(code)
    for number in STOP_SIGNALS:
        signal.signal(number, handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
"""


class Launched:
    """One launcher in a process of its own, with its rank_info."""

    def __init__(self, folder: Path, start_method: str, program: str, count: int) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, start_method, BEGIN + program, str(count), str(self.logs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TEST_FOLDER": str(folder)},
        )

    def end(self, timeout: float = 60.0) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def wait_for(self, name: str) -> int:
        """Returns the process number that a process of the launch has written under this name."""
        path = self.folder / f"{name}.pid"
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline, f"{name} did not start"
            time.sleep(0.02)
        return int(path.read_text())

    def log(self, rank: int) -> str:
        lines = (self.logs / f"rank-{rank:05d}.log").read_text().splitlines(keepends=True)
        return "".join(re.sub(r"^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", "", line) for line in lines)

    def assert_no_process_left(self) -> None:
        assert not processes_left(self.folder)


def processes_left(folder: Path) -> list[Path]:
    """Returns the pid files of processes that run, after a time in which a killed process ends."""
    deadline = time.monotonic() + 60
    while left := [path for path in folder.glob("*.pid") if is_alive(int(path.read_text()))]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return left


def is_alive(pid: int) -> bool:
    state = process_state(pid)
    return state is not None and state.letter != "Z"


class Launch(Protocol):
    """Launches `count` ranks of a program."""

    def __call__(self, program: str, count: int) -> Launched: ...


@pytest.fixture(params=[pytest.param("exec", marks=pytest.mark.slow), "fork"])
def launch(request: pytest.FixtureRequest, tmp_path: Path) -> Launch:
    return lambda program, count: Launched(tmp_path, request.param, program, count)


@pytest.fixture(autouse=True)
def nothing_outlives_a_test(tmp_path: Path) -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and a launcher would ignore it
    yield
    signal.signal(signal.SIGHUP, before)
    left = processes_left(tmp_path)
    for path in left:
        os.kill(int(path.read_text()), signal.SIGKILL)
    assert not left


def test_every_rank_has_its_variables_and_its_log(launch: Launch) -> None:
    launched = launch(
        'print("rank", rank_info.rank, "of", rank_info.world_size, rank_info.local_rank, rank_info.launcher)\n'
        'print("trouble ahead", file=sys.stderr)\n'
        'print("\\x1b[31mred\\x1b[0m\\r\\x1b[2Kdone")',
        3,
    )
    code, out, err = launched.end()
    assert code == 0
    assert "rank 0 of 3 0 lehr" in out
    assert "\x1b[31mred" in out  # as it came
    assert "trouble ahead" in err
    assert "rank 1" not in out + err
    for rank in range(3):
        log = launched.log(rank)
        assert f"rank {rank} of 3 {rank} lehr" in log
        assert "trouble ahead" in log
    assert launched.log(0).splitlines().count("done") == 1  # what a terminal would show in the end
    assert "\x1b" not in launched.log(0)


@pytest.mark.slow
def test_ranks_meet_at_a_port_nobody_can_take(launch: Launch) -> None:
    launched = launch(
        "from launcher.processes.rendezvous import open_store\n"
        "store = open_store(rank_info, timeout_seconds=30)\n"
        "store.set(f'from {rank_info.rank}', 'hello')\n"
        "print(store.get(f'from {1 - rank_info.rank}').decode(), rank_info.master_port > 0)\n"
        "store.add('done', 1)\n"
        "while rank_info.rank == 0 and store.add('done', 0) < 2: time.sleep(0.05)\n",
        2,
    )
    code, out, err = launched.end()
    assert (code, out) == (0, "hello True\n"), err
    assert "hello True" in launched.log(1)


def test_a_failed_rank_ends_the_run_with_its_message(launch: Launch) -> None:
    launched = launch(
        "try:\n    if rank_info.rank == 2: raise RuntimeError('no oil in the lamp')\n"
        "except RuntimeError as error: fail(error)\ntime.sleep(1000)",
        3,
    )
    code, _, err = launched.end()  # the other ranks would sleep for 1000 s
    assert code == 1
    assert "rank 2 failed: RuntimeError: no oil in the lamp" in err
    assert "Traceback" in err
    assert str(launched.logs / "rank-00002.log") in err
    assert "no oil in the lamp" in launched.log(2)
    launched.assert_no_process_left()


def test_the_earliest_failure_is_the_cause_not_the_first_exit(launch: Launch) -> None:
    launched = launch(
        "reported = folder / 'reported'\n"
        "if rank_info.rank == 1:\n"
        "    send_report(FailureReport.from_error(ValueError('the cause')), rank_info.parent.report_fd)\n"
        "    reported.touch()\n"
        "    while not (folder / 'rank-0.pid').exists(): time.sleep(0.01)\n"
        "    first = int((folder / 'rank-0.pid').read_text())\n"
        "    while (state := process_state(first)) and state.letter != 'Z': time.sleep(0.01)\n"
        "    os._exit(1)\n"
        "while not reported.exists(): time.sleep(0.01)\n"
        "fail(ConnectionError('the consequence'))",
        2,
    )
    code, _, err = launched.end()
    assert code == 1
    assert "rank 1 failed: ValueError: the cause" in err
    assert "the consequence" not in err
    assert "the consequence" in launched.log(0)


def test_a_killed_rank_is_the_cause_not_those_that_lost_it(launch: Launch) -> None:
    launched = launch(
        "print('was doing step 7', flush=True)\n"
        "if rank_info.rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "killed = folder / 'rank-1.pid'\n"
        "while not killed.exists(): time.sleep(0.001)\n"
        "while (state := process_state(int(killed.read_text()))) and state.letter != 'Z': time.sleep(0.001)\n"
        "fail(ConnectionError('peer closed'))",
        2,
    )
    code, _, err = launched.end()
    assert code == 1
    assert "rank 1 was killed by SIGKILL" in err
    assert "was doing step 7" in err


def test_an_exit_without_a_report_shows_the_end_of_the_log(launch: Launch) -> None:
    launched = launch("print('terminate called'); sys.exit(9 if rank_info.rank == 1 else 0)", 2)
    code, _, err = launched.end()
    assert code == 1
    assert "rank 1 ended with exit code 9" in err
    assert "terminate called" in err


def test_a_users_mistake_is_printed_once(launch: Launch) -> None:
    launched = launch("fail(UserError('train.steps = 0 must be at least 1'))", 4)
    code, out, err = launched.end()
    assert code == 2
    assert err == "error: train.steps = 0 must be at least 1\n"
    assert out == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_stop_signal_reaches_every_rank_and_the_exit_code_is_75(launch: Launch, number: signal.Signals) -> None:
    launched = launch("on_stop(75)\nmark(f'ready-{rank_info.rank}', os.getpid())\ntime.sleep(1000)", 3)
    for rank in range(3):
        launched.wait_for(f"ready-{rank}")
    launched.process.send_signal(number)
    code, _, _ = launched.end()
    assert code == 75
    received = signal.SIGTERM if number == signal.SIGHUP else number
    assert all(f"stopping by {received.name}" in launched.log(rank) for rank in range(3))
    launched.assert_no_process_left()


def test_ctrl_c_of_a_terminal_does_not_reach_a_background_job(launch: Launch) -> None:
    """A shell without job control ignores SIGINT for a command with `&`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        launched = launch("on_stop(75)\nmark(f'ready-{rank_info.rank}', os.getpid())\ntime.sleep(1000)", 2)
    finally:
        signal.signal(signal.SIGINT, before)
    for rank in range(2):
        launched.wait_for(f"ready-{rank}")
    launched.process.send_signal(signal.SIGINT)
    launched.process.send_signal(signal.SIGTERM)
    code, _, err = launched.end()
    assert (code, err) == (75, "")
    assert all("stopping by SIGTERM" in launched.log(rank) for rank in range(2))
    launched.assert_no_process_left()


def test_a_signal_before_a_rank_has_its_handlers_is_not_lost(launch: Launch) -> None:
    launched = launch("time.sleep(1.0)\non_stop(75)\ntime.sleep(1000)", 2)
    launched.wait_for("rank-0")
    launched.wait_for("rank-1")
    launched.process.send_signal(signal.SIGUSR1)
    code, _, err = launched.end()
    assert code == 75, err


def test_a_second_ctrl_c_kills_the_ranks(launch: Launch) -> None:
    launched = launch(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "import subprocess\n"
        "mark(f'helper-{rank_info.rank}', subprocess.Popen(['sleep', '1000']).pid)\ntime.sleep(1000)",
        2,
    )
    for name in ("helper-0", "helper-1"):
        launched.wait_for(name)
    assert launched.process.stderr is not None
    launched.process.send_signal(signal.SIGINT)
    assert launched.process.stderr.readline() == "\n"
    assert "Ctrl-C again" in launched.process.stderr.readline()
    assert launched.process.poll() is None
    launched.process.send_signal(signal.SIGINT)
    assert launched.end()[0] == 130
    launched.assert_no_process_left()


def test_processes_that_a_rank_started_end_with_it(launch: Launch) -> None:
    launched = launch("import subprocess\nmark(f'helper-{rank_info.rank}', subprocess.Popen(['sleep', '1000']).pid)", 2)
    code, _, _ = launched.end()
    assert code == 0
    launched.assert_no_process_left()


def test_ranks_die_with_a_killed_parent(launch: Launch) -> None:
    launched = launch("mark(f'ready-{rank_info.rank}', os.getpid())\ntime.sleep(1000)", 2)
    for rank in range(2):
        launched.wait_for(f"ready-{rank}")
    launched.process.kill()
    launched.process.communicate(timeout=60)
    launched.assert_no_process_left()


def test_a_closed_console_does_not_end_the_run(launch: Launch) -> None:
    launched = launch("mark('ready', os.getpid())\ntime.sleep(0.5)\nfor i in range(2000): print('line', i)", 1)
    assert launched.process.stdout is not None
    launched.process.stdout.close()
    launched.process.stdout = None
    code, _, err = launched.end()
    assert code == 0, err
    assert "line 1999" in launched.log(0)
