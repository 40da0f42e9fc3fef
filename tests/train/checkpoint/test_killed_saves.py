"""A run is killed within a save or at any moment: its checkpoints are complete, and it resumes to the bit."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from processes import lehr, start_lehr
from small_runs import make_shards, steps_taken, trajectory, wait_until, write_config

from train.checkpoint.discovery import latest_checkpoint, problems_of, step_folders

STEPS, KILLS = 60, 4


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_killed_in_its_saves_equals_the_unbroken_one(tmp_path: Path) -> None:
    config = write_config(
        tmp_path, make_shards(tmp_path), train={"steps": STEPS}, checkpoint={"every_steps": 1, "keep_last": 3}
    )
    layout = "parallel.data=2"
    whole = lehr("train", config, "run.name=whole", layout)
    assert whole.returncode == 0, whole.stderr
    run = tmp_path / "runs" / "try"
    checkpoints = run / "checkpoints"
    rng = random.Random(7)
    for kill in range(KILLS):
        before = steps_taken(run)
        with start_lehr("train", config, layout) as process:
            wait_until(lambda at=before: steps_taken(run) >= min(at + 3, STEPS - 2) or process.poll() is not None)  # type: ignore[misc]
            if kill % 2:
                time.sleep(0.2 * rng.random())
            else:
                wait_until(lambda: stopped_in_a_save(process.pid, checkpoints))
            os.killpg(process.pid, signal.SIGKILL)  # the ranks die with it
            process.communicate()
        wait_until(lambda: not alive(run))
        assert kill % 2 or in_a_save(checkpoints)
        for path in step_folders(checkpoints):
            assert problems_of(path) == []
        warnings: list[str] = []
        latest_checkpoint(checkpoints, warn=warnings.append)
        assert warnings == []
    done = lehr("train", config, layout)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert trajectory(run) == trajectory(tmp_path / "runs" / "whole")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "claim.json",
        "latest",
        *(f"step-{step:08d}" for step in (STEPS - 2, STEPS - 1, STEPS)),
    ]


def in_a_save(checkpoints: Path) -> bool:
    return any(path.is_dir() for path in checkpoints.glob(".claim-*/step-*"))


def stopped_in_a_save(launch: int, checkpoints: Path) -> bool:
    """Stops the ranks while a checkpoint is written. Returns False, and lets them run, if it was too late."""
    wait_until(lambda: in_a_save(checkpoints), pause_seconds=0.001)
    ranks = psutil.Process(launch).children()
    for rank in ranks:
        rank.suspend()
    wait_until(lambda: all(rank.status() == psutil.STATUS_STOPPED for rank in ranks))
    if not in_a_save(checkpoints):
        for rank in ranks:
            rank.resume()
    return in_a_save(checkpoints)


def alive(run: Path) -> bool:
    """Returns whether some process still has the run's name in its command: a rank that is about to end."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except (OSError, IndexError):
                continue
            if str(run.parents[1] / "config.yaml").encode() in command and state != "Z":
                return True
    return False
