"""The state of processes, and the end of a child with its parent: with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

from settings.processes import process_state

# A parent that prints its child's number and ends; the child would live for a long time.
PARENT_OF_ONE = """
import os, time
from settings.processes import die_with_parent
parent = os.getpid()
ready, write = os.pipe()
child = os.fork()
if child == 0:
    die_with_parent(parent)
    os.write(write, b"ready")
    time.sleep(1000)
os.read(ready, 5)
print(child, flush=True)
time.sleep(1000)
"""


def test_the_state_of_a_process() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    try:
        state = process_state(process.pid)
        assert state is not None
        assert state.letter in "RSD"
        started = time.time() - psutil.boot_time() - state.started_ticks / os.sysconf("SC_CLK_TCK")
        assert -2 < started < 60
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        stopped = process_state(process.pid)
        assert stopped is not None
        assert (stopped.letter, stopped.started_ticks) == ("T", state.started_ticks)
    finally:
        process.kill()
        process.wait()
    assert process_state(process.pid) is None


def test_a_child_dies_with_its_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT_OF_ONE], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(timeout=60)
