"""Builds as real processes that are killed or interrupted: they end at once, and so do their tasks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from forked_lehr import ForkedLehr
from made_text import config_file, make_config, make_text, write_jsonl
from processes import lehr, start_lehr


def wait_for_task(process: ForkedLehr) -> psutil.Process:
    """Wait for a running build's first task, and return it."""
    parent = psutil.Process(process.pid)
    for _ in range(2000):
        children = [child for child in parent.children() if child.status() != psutil.STATUS_ZOMBIE]
        if children and time.time() - children[0].create_time() > 0.3:
            return children[0]
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("no task came up")


@pytest.fixture
def long_build(tmp_path: Path) -> Path:
    """The config of a build that takes some seconds."""
    write_jsonl(tmp_path / "made.jsonl", [make_text(seed, words=400) for seed in range(6000)])
    return config_file(tmp_path, make_config(tmp_path, filters=["gopher_repetition"], task_bytes=4_000_000))


@pytest.mark.slow
def test_the_build_fails_and_names_a_task_that_was_killed(tmp_path: Path, long_build: Path) -> None:
    process = start_lehr("data", "build", long_build)
    wait_for_task(process).kill()
    _, errors = process.communicate(timeout=100)
    assert process.returncode not in (0, 2, 75)
    assert "task" in errors
    assert "of stage documents ended without an error message (exit code -9)" in errors
    assert not (tmp_path / "shards").exists()


@pytest.mark.slow
def test_tasks_end_with_a_killed_build(tmp_path: Path, long_build: Path) -> None:
    process = start_lehr("data", "build", long_build)
    task = wait_for_task(process)
    os.kill(process.pid, signal.SIGKILL)  # the parent alone
    process.communicate()
    gone, alive = psutil.wait_procs([task], timeout=60)
    assert gone
    assert not alive


@pytest.mark.slow
def test_ctrl_c_reaches_every_process_and_ends_in_good_order(tmp_path: Path, long_build: Path) -> None:
    process = start_lehr("data", "build", long_build)
    task = wait_for_task(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 75, errors
    assert "Traceback" not in errors
    assert not task.is_running() or task.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_stop_keeps_complete_tasks(tmp_path: Path, long_build: Path, number: signal.Signals) -> None:
    process = start_lehr("data", "build", long_build)
    task = wait_for_task(process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 75, errors
    assert "the same command goes on from here" in errors
    assert not task.is_running() or task.status() == psutil.STATUS_ZOMBIE
    assert not (tmp_path / "shards").exists()
    again = lehr("data", "build", long_build)
    assert again.returncode == 0, again.stderr
    assert "continuing the unfinished build" in again.stderr
    assert (tmp_path / "shards").is_dir()
