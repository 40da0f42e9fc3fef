"""A forked `lehr` is like a new one: its exit code, its outputs, its signals, and the end of all that it starts."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from forked_lehr import running_processes
from processes import exec_lehr, lehr, start_lehr
from small_runs import wait_until

# A process that waits for ever, and a child of it which does so too. The child's number is printed.
WAITS = """
import os, time
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(1000)
"""


def has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_exit_code_and_the_outputs_are_those_of_a_new_interpreter(tmp_path: Path) -> None:
    for arguments, code in ((["--version"], 0), (["train", "no.yaml"], 2), (["no-command"], 2)):
        forked = lehr(*arguments, cwd=tmp_path)
        with exec_lehr(*arguments, cwd=tmp_path) as new:
            assert (forked.stdout, forked.stderr) == new.communicate()
        assert forked.returncode == new.returncode == code


def test_an_exception_is_a_traceback_and_exit_code_1() -> None:
    done = lehr("--version", before="raise ValueError('the pen is empty')")
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: the pen is empty\n")
    assert done.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_is_the_exit_code(number: signal.Signals) -> None:
    with start_lehr("--version", before=WAITS) as process:
        child = int(process.stdout.readline())
        assert process.poll() is None
        assert sorted(running_processes()) == sorted([process.pid, child])
        process.send_signal(number)
        assert process.wait(60) == -number
        assert running_processes() == [child]
        process.kill_group()
        assert process.communicate(60) == ("", "")
    wait_until(lambda: running_processes() == [])


def test_a_process_that_hangs_is_killed_with_its_children() -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        lehr("--version", before=WAITS, timeout=2)
    wait_until(lambda: has_ended(int(caught.value.stdout or "")))


def test_what_a_process_leaves_behind_is_killed() -> None:
    done = lehr("--version", before=WAITS.replace("time.sleep(1000)", "else: time.sleep(1000)"))
    assert done.returncode == 0
    child, version = done.stdout.splitlines()
    assert version.startswith("lehr ")
    wait_until(lambda: has_ended(int(child)))


def test_more_output_than_a_pipe_holds_is_read() -> None:
    assert len(lehr("--version", before="print('x' * 1_000_000)").stdout) > 1_000_000
