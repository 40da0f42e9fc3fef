"""`lehr sweep`: short real runs are stopped, killed and continued; failed and diverged ones do not stop the others."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import lehr, start_lehr
from small_runs import make_shards, trajectory, wait_until, write_config

from train.metrics.jsonl import read_metrics

ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, make_shards(tmp_path))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.parent.name: trajectory(path.parent) for path in sorted(folder.glob("*/metrics.jsonl"))}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "optim.lrr=1,2"], "optim.lrr: unknown key"),
        (["--grid", "model.num_heads=4,5"], "must be divisible by num_heads = 5"),
        (["--grid", "optim.lr=1e-3", "--grid", "data.shards=/nowhere"], "there is no such folder"),
        (["--grid", "train.seq_length=32,99999", "data.mixture={alpha: 1}"], "train.seq_length=99999, seed 1: "),
    ],
)
def test_mistakes_are_found_before_any_run_starts(arguments: list[str], message: str, config: Path) -> None:
    done = lehr("sweep", config, *arguments)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert not (config.parent / "runs").exists()


@pytest.mark.slow
def test_a_sweep_goes_on_from_its_records_alone(config: Path, tmp_path: Path) -> None:
    """Another config with the same file of runs is told apart, and what diverged counts as an answer."""
    records = tmp_path / "proof/runs.jsonl"
    arguments = ["sweep", config, "--runs", records, "--jobs", "2", "--seeds", "2", "train.max_skipped_steps=2"]
    arguments += ["--grid", "optim.lr=3e-3,1e30"]
    first = lehr(*arguments, env=ENVIRONMENT)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "diverged: optim.lr=1e30, seed 1; optim.lr=1e30, seed 2" in first.stderr
    assert "best: optim.lr=3e-3, " in first.stdout
    assert "(mean and 95% t interval over 2 seeds)" in first.stdout
    found = {(line["point"]["optim.lr"], line["seed"]): line for line in lines_of(records)}
    assert {key: line["diverged"] for key, line in found.items()} == {
        ("3e-3", 1): False,
        ("3e-3", 2): False,
        ("1e30", 1): True,
        ("1e30", 2): True,
    }
    (run,) = (config.parent / "runs/try-sweep").glob("lr-3e-3_seed-2_*")
    last = read_metrics(run / "metrics.jsonl")[-1]
    assert found["3e-3", 2]["loss"] == last["held_out/loss"]
    assert found["3e-3", 2]["tokens"] == last["tokens"] == 12 * 8 * 32
    assert (config.parent / "runs/try-sweep/sweep.png").stat().st_size > 1000

    shutil.rmtree(config.parent / "runs")
    before = records.read_bytes()
    again = lehr(*arguments, env=ENVIRONMENT)
    assert again.returncode == 1
    first_line, _, results = again.stdout.partition("\n\n")
    assert first_line == "4 of 4 runs were finished; nothing was trained"
    assert results == first.stdout.partition("\n\n")[2]
    assert records.read_bytes() == before
    assert not list((config.parent / "runs/try-sweep").glob("lr-*"))

    shorter = lehr(*arguments, "train.steps=3", env=ENVIRONMENT)  # too short for more than two skipped steps
    assert shorter.returncode == 1, shorter.stdout + shorter.stderr
    assert "optim.lr=1e30, seed 2: diverged at step 3, 2 steps skipped" in shorter.stdout
    lines = lines_of(records)[4:]
    assert {(line["point"]["optim.lr"], line["steps"], line["diverged"]) for line in lines} == {
        ("3e-3", 3, False),
        ("1e30", 3, True),
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_or_killed_sweep_goes_on(number: int, config: Path) -> None:
    """One run is complete, one is in its middle and one has not begun; the results are those of an unbroken sweep."""
    arguments = ["sweep", config, "--jobs", "1", "--grid", "optim.lr=1e-3,2e-3,3e-3", "train.steps=40"]
    unbroken = lehr(*arguments, "run.name=unbroken", env=ENVIRONMENT)
    assert unbroken.returncode == 0, unbroken.stdout + unbroken.stderr
    folder = config.parent / "runs/try-sweep"
    sweep = start_lehr(*arguments, env=ENVIRONMENT)
    try:
        wait_until(lambda: any(len(rows) >= 9 for name, rows in metrics_of(folder).items() if name[:7] == "lr-2e-3"))
        children = psutil.Process(sweep.pid).children(recursive=True)
        os.kill(sweep.pid, number)
        output, errors = sweep.communicate(timeout=120)
    finally:
        sweep.kill()
    assert sweep.returncode == (75 if number == signal.SIGTERM else -number), output + errors
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    if number == signal.SIGTERM:
        assert errors.endswith("stopped; the same command goes on from here\n")
        assert "best so far: optim.lr=1e-3" in output
    assert len(lines_of(folder / "runs.jsonl")) == 1
    again = lehr(*arguments, env=ENVIRONMENT)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "optim.lr=1e-3, seed 1" not in again.stdout
    assert metrics_of(folder) == metrics_of(config.parent / "runs/unbroken-sweep")
    losses = [
        [line["loss"] for line in lines_of(path / "runs.jsonl")]
        for path in (folder, folder.with_name("unbroken-sweep"))
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_run_that_is_killed_is_named_and_the_others_go_on(config: Path) -> None:
    """The runs have two ranks each; the next call tries the one that failed again."""
    arguments = ["sweep", config, "--jobs", "1", "--grid", "optim.lr=1e-3,2e-3", "train.steps=30", "parallel.data=2"]
    arguments += ["data.prefetch_batches=1"]
    folder = config.parent / "runs/try-sweep"
    sweep = start_lehr(*arguments, env=ENVIRONMENT)
    try:
        wait_until(lambda: any(len(rows) >= 5 for rows in metrics_of(folder).values()))
        psutil.Process(sweep.pid).children()[0].kill()
        output, errors = sweep.communicate(timeout=120)
    finally:
        sweep.kill()
    assert sweep.returncode == 1, output + errors
    (log,) = (folder / "logs").glob("lr-1e-3_*.log")
    assert f"  optim.lr=1e-3, seed 1: killed by SIGKILL; its log: {log}" in errors
    assert "[2/2] optim.lr=2e-3, seed 1: held-out loss" in output
    again = lehr(*arguments, env=ENVIRONMENT)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(lines_of(folder / "runs.jsonl")) == 2


def test_a_sweep_is_no_rank(config: Path) -> None:
    done = lehr(
        "sweep", config, env={"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    )
    assert done.returncode == 2
    assert "call it once, without torchrun or srun" in done.stderr
