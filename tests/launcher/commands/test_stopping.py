"""Stop signals to `lehr train` in every phase of a run and by every launcher; runs that hang, or only seem to."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from forked_lehr import ForkedLehr, running_processes
from processes import lehr, start_lehr
from small_runs import slow_data, trajectory

from train.checkpoint.manifest import read_manifest
from train.metrics.jsonl import read_metrics

TWO = ("parallel.data=2",)
ENDLESS = ("train.steps=1000000", "evaluate.every_steps=0", "train.log_every_steps=1000")


def wait_until(
    condition: Callable[[], bool], process: ForkedLehr | subprocess.Popen[str], seconds: float = 100
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.002)


def steps_taken(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return max((line["step"] for line in read_metrics(metrics) if "loss" in line), default=0) if metrics.exists() else 0


def saved_step(run: Path) -> int:
    return int((run / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))


def start_training(config: Path, *overrides: str) -> tuple[ForkedLehr, Path]:
    """Starts `lehr train` and waits until it has taken steps. Returns the process and the run folder."""
    run = config.parent / "runs" / "try"
    process = start_lehr("train", config, *overrides)
    wait_until(lambda: steps_taken(run) > 1, process)
    return process, run


def processes_of(config: Path) -> list[int]:
    """Returns the numbers of the processes that run: those of torchrun name the config, the others are forked."""
    everyone = psutil.process_iter(["cmdline"])
    of_torchrun = [process.pid for process in everyone if str(config) in (process.info["cmdline"] or [])]
    return of_torchrun + running_processes()


@pytest.fixture(autouse=True)
def no_process_is_left(config: Path) -> Iterator[None]:
    yield
    deadline = time.monotonic() + 10  # a process that is killed takes a moment to end
    while (left := processes_of(config)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_in_start_up(config: Path, number: signal.Signals) -> None:
    run = config.parent / "runs" / "try"
    process = start_lehr("train", config, *TWO, *ENDLESS)
    wait_until(lambda: (run / "logs" / "rank-00001.log").exists(), process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 75, errors
    assert "stopped before the first step" in errors
    assert steps_taken(run) == 0


@pytest.mark.slow
def test_in_evaluation_which_the_next_start_repeats(config: Path) -> None:
    """The evaluation is the final one: the run is not done without it."""
    overrides = ("train.steps=3", "train.seq_length=8", "train.micro_batch_size=1", "evaluate.max_windows=300", *TWO)
    uninterrupted = lehr("train", config, "run.name=uninterrupted", *overrides)
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    run = config.parent / "runs" / "try"
    process = start_lehr("train", config, *overrides)
    wait_until(lambda: steps_taken(run) == 3, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 75, errors
    assert saved_step(run) == 3
    lines = read_metrics(run / "metrics.jsonl")
    assert not any("held_out/loss" in line for line in lines)
    assert read_manifest(run / "checkpoints" / "step-00000003").held_out_loss is None
    again = lehr("train", config, *overrides)
    assert again.returncode == 0, again.stderr
    volatile = {"tokens_per_second", "mfu", "memory_bytes", "seconds_per_step"}
    found, wanted = (
        [{key: value for key, value in line.items() if key not in volatile} for line in read_metrics(path)]
        for path in (run / "metrics.jsonl", run.with_name("uninterrupted") / "metrics.jsonl")
    )
    assert found == wanted
    assert "held_out/loss" in found[-1]
    assert read_manifest(run / "checkpoints" / "step-00000003").held_out_loss == found[-1]["held_out/loss"]


@pytest.mark.slow
def test_while_it_saves(config: Path) -> None:
    run = config.parent / "runs" / "try"
    process = start_lehr("train", config, *TWO, *ENDLESS, "checkpoint.every_steps=2")
    wait_until(lambda: any((run / "checkpoints").glob(".*/step-*")), process)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 75, errors
    assert saved_step(run) == steps_taken(run)


@pytest.mark.slow
def test_before_the_end_of_the_slurm_job(config: Path) -> None:
    run = config.parent / "runs" / "try"
    assert lehr("--version").returncode == 0  # the process that forks has done its imports before the time runs
    end = int(time.time()) + 60
    environment = {"SLURM_JOB_END_TIME": str(end)}
    limit = "train.stop_before_limit_seconds=20"
    process = start_lehr("train", config, *TWO, *ENDLESS, limit, before=slow_data(0.1), env=environment)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 75, errors
    assert time.time() < end
    assert saved_step(run) == steps_taken(run) > 0


@pytest.mark.slow
def test_a_second_ctrl_c_kills_a_run_that_cannot_stop(config: Path) -> None:
    process, _ = start_training(config, *TWO, *ENDLESS)
    ranks = psutil.Process(process.pid).children()
    ranks[0].suspend()
    process.send_signal(signal.SIGINT)
    time.sleep(2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert psutil.wait_procs(ranks, timeout=60)[1] == []


def torchrun(config: Path, *overrides: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    program = ["-m", "launcher", "train", str(config), *overrides]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *options, *program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


HANDLED = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "options"), [(signal.SIGTERM, ()), (signal.SIGUSR1, ("--signals-to-handle", HANDLED))]
)
def test_a_stop_signal_to_torchrun(config: Path, number: signal.Signals, options: tuple[str, ...]) -> None:
    run = config.parent / "runs" / "try"
    process = torchrun(config, *ENDLESS, options=options)
    wait_until(lambda: steps_taken(run) > 1, process)
    sent = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    assert time.monotonic() - sent < 30, "torchrun kills after 30 s"
    assert "the same command goes on from there" in errors
    assert saved_step(run) == steps_taken(run)
    continued = lehr("train", config, f"train.steps={saved_step(run) + 2}", *ENDLESS[1:])
    assert continued.returncode == 0, continued.stderr


@pytest.mark.slow
def test_ranks_end_with_a_killed_agent_of_torchrun(config: Path) -> None:
    process = torchrun(config, *ENDLESS)
    wait_until(lambda: steps_taken(config.parent / "runs" / "try") > 1, process)
    ranks = [rank for rank in psutil.Process(process.pid).children() if "launcher" in rank.cmdline()]
    assert len(ranks) == 2
    process.kill()
    process.communicate(timeout=60)
    assert psutil.wait_procs(ranks, timeout=60)[1] == []


HANGS = (*ENDLESS, "train.hang_seconds=5", "train.timeout_seconds=300")


@pytest.mark.slow
def test_a_stopped_rank_is_a_hang_that_names_it(config: Path) -> None:
    process, run = start_training(config, *TWO, *HANGS)
    ranks = psutil.Process(process.pid).children()
    victim = max(ranks, key=lambda rank: rank.pid)
    victim.suspend()
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1, errors
    assert "the run hangs:\n  rank 0: no progress for" in errors
    assert " of parallel/" in errors or " of train/" in errors  # where the collective is called
    assert "rank 1 does not answer: its process is stopped" in errors
    assert re.search(r"  \w+ \d+ of the group of all ranks: rank 0 joined; rank 1 gave no answer\n", errors), errors
    log = (run / "logs" / "rank-00001.log").read_text()
    assert "(most recent call first)" in log
    assert "train/loop.py" in log
    assert psutil.wait_procs(ranks, timeout=60)[1] == []


@pytest.mark.slow
def test_under_torchrun_the_waiting_ranks_report_the_hang(config: Path) -> None:
    run = config.parent / "runs" / "try"
    process = torchrun(config, *HANGS, options=("--shutdown-timeout", "3"))
    wait_until(lambda: steps_taken(run) > 1, process)
    ranks = [rank for rank in psutil.Process(process.pid).children() if "launcher" in rank.cmdline()]
    (first,) = [rank for rank in ranks if rank.environ()["RANK"] == "0"]
    first.suspend()
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "rank 1 hangs: no progress for" in errors
    assert f"the run hangs: no answer from rank 0 on node 0 ({socket.gethostname()}): stopped, or out" in errors
    assert re.search(
        r"  \w+ \d+ of the group of all ranks: rank 1 joined; rank 0 on node 0 \(.*\) gave no answer\n", errors
    )
    assert "main thread:" in (run / "logs" / "rank-00001.log").read_text()
    assert psutil.wait_procs(ranks, timeout=60)[1] == []


@pytest.mark.slow
def test_a_pause_of_the_whole_run_is_no_hang(config: Path) -> None:
    process, run = start_training(config, *TWO, *HANGS)
    parent = psutil.Process(process.pid)
    everyone = [parent, *parent.children()]
    for one in everyone:
        one.suspend()
    paused_at = steps_taken(run)
    time.sleep(8)
    assert steps_taken(run) <= paused_at + 1
    for one in everyone:
        one.resume()
    wait_until(lambda: steps_taken(run) > paused_at + 5, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "hangs" not in errors


def test_hang_and_limit_must_leave_time(config: Path) -> None:
    for override, shown in (
        ("train.hang_seconds=450", "hang_seconds = 450 is 1800 for a first step, and must stay below timeout_seconds"),
        ("train.time_limit_seconds=60", "time_limit_seconds = 60 must be above stop_before_limit_seconds = 60"),
    ):
        done = lehr("train", config, override)
        assert done.returncode == 2
        assert shown in done.stderr
        assert "Traceback" not in done.stderr


def test_the_settings_that_stop_a_run_may_change(config: Path) -> None:
    """The settings of stopping and of the checks of steps may change between starts of a run."""
    first = lehr("train", config, "train.steps=2", "schedule.warmup_steps=1")
    assert first.returncode == 0, first.stderr
    again = lehr(
        "train",
        config,
        "train.steps=2",
        "schedule.warmup_steps=1",
        "train.time_limit_seconds=3600",
        "train.hang_seconds=100",
        "train.stop_before_limit_seconds=30",
        "train.spikes.sigma=6",
    )
    assert again.returncode == 0, again.stderr


def test_a_start_ends_at_train_stop_at_step_and_the_run_is_that_of_train_steps(tmp_path: Path, config: Path) -> None:
    def take(name: str, *overrides: str) -> str:
        result = lehr("train", config, f"run.name={name}", "checkpoint.every_steps=0", *overrides)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "stopped at step 3 of 8 with a checkpoint, as train.stop_at_step says" in take(
        "parts", "train.stop_at_step=3"
    )
    assert len(read_metrics(tmp_path / "runs/parts/metrics.jsonl")) == 3
    assert "done: 8 steps" in take("parts")
    assert "done: 8 steps" in take("whole", "train.stop_at_step=9")
    parts, whole = (trajectory(tmp_path / "runs" / name) for name in ("parts", "whole"))
    assert parts == whole
