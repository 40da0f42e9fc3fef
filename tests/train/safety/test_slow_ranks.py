"""A rank that is slower than its peers is named once, with its node and device; what it waits for is not its time."""

from __future__ import annotations

import itertools
import json
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_runs import Trial, global_batches, local_micro_batches, start
from processes import lehr, run_ranks
from small_runs import make_shards, write_config

from parallel.compute_timer import ComputeTimer
from parallel.config import ParallelConfig
from parallel.mesh import make_mesh
from train.metrics.jsonl import read_metrics
from train.run_folder.events import Events
from train.safety.slow_ranks import WINDOW_STEPS, RankSeconds, SlowRanks, medians_of_stages

PASS_SECONDS = 0.1


class GivenTimes(ComputeTimer):
    """A timer whose passes take as long as the test says."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.seconds = 0.0

    def take_seconds(self) -> float:
        return self.seconds


def test_the_median_is_that_of_the_stage() -> None:
    seconds = {(0, 0): 1.0, (1, 0): 3.0, (2, 0): 1.1, (3, 1): 7.0, (4, 1): 8.0}
    everyone = [RankSeconds(f"rank {rank}", stage, value) for (rank, stage), value in seconds.items()]
    assert medians_of_stages(everyone) == [1.1, 1.1, 1.1, 7.0, 7.0]


def events_on_a_rank(folder: Path) -> list[dict[str, float]]:
    """Rank 1 is fast, slow, a little slow, fast; each for a window of steps. Returns the metrics."""
    mesh = make_mesh(ParallelConfig(data=3), timeout_seconds=60)
    timer = GivenTimes()
    slow_ranks = SlowRanks(timer, mesh, Events(folder / "events.jsonl", writes=mesh.rank == 0))
    found = []
    timer.seconds = 1000.0  # the first step warms up
    for step in range(1, 6 * WINDOW_STEPS + 2):
        with slow_ranks.reading_data():
            pass
        metrics = slow_ranks.end_step(step)
        assert bool(metrics) == (step % WINDOW_STEPS == 1 and step > 1)
        found += [metrics] if metrics else []
        ratios = (1.0, 1.3, 1.3, 1.15, 1.0, 1.15)  # still slow at 1.15, and not slow by it
        timer.seconds = 10.0 * (ratios[min(5, (step - 1) // WINDOW_STEPS)] if mesh.rank == 1 else 1.0)
    return found


def test_a_slow_rank_is_named_once_and_again_when_that_changes(tmp_path: Path) -> None:
    metrics, *others = run_ranks(3, events_on_a_rank, tmp_path)
    assert all(len(other) == len(metrics) == 6 for other in others)
    assert metrics[1] == pytest.approx(
        {"rank_seconds/median": 10.0, "rank_seconds/slowest": 13.0, "rank_seconds/slowest_rank": 1}, rel=1e-3
    )
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(event["step"], event["ranks"]) for event in events] == [
        (2 * WINDOW_STEPS + 1, [1]),
        (5 * WINDOW_STEPS + 1, []),
    ]
    assert events[0]["places"] == [f"rank 1 (node {socket.gethostname()}, cpu)"]


def own_seconds_on_a_rank(trial: Trial) -> float:
    """Returns the own time of a step in which the forward pass of the last rank takes longer."""
    mesh, parts = start(trial)
    batches = global_batches()
    for batch in itertools.islice(batches, 2):  # the first step imports and allocates
        micro_batches = local_micro_batches(batch, trial, mesh, parts)
        parts.compute_timer.take_seconds()
        transformer = parts.chunks[-1].transformer
        if mesh.rank == mesh.world_size - 1:
            transformer.register_forward_pre_hook(lambda *_: time.sleep(PASS_SECONDS))
        parts.engine.train_step(micro_batches, lr=1e-3)
        seconds = parts.compute_timer.take_seconds()
    return seconds


@pytest.mark.parametrize(
    "parallel",
    [{"data": 2, "zero": 0}, {"data": 2, "zero": 1}, {"pipeline": 2}, pytest.param({"data": 2, "zero": 2})],
    ids=str,
)
def test_waiting_for_another_rank_is_not_a_ranks_own_time(parallel: dict[str, Any]) -> None:
    trial = Trial(parallel=parallel, micro_batch_size=2)
    micro_batches = 8 // trial.micro_batch_size // parallel.get("data", 1)
    fast, slow = run_ranks(2, own_seconds_on_a_rank, trial, timeout=100)
    assert slow > 2 * micro_batches * PASS_SECONDS  # two hooks in the second step
    assert fast < 0.5 * slow


SLOW_DATA = """
import time
import launcher.run.rank_main as rank_main
build_run = rank_main.build_run
def build(config, mesh, folder, **more):
    run = build_run(config, mesh, folder, **more)
    batch = run.loader.batch
    def slowed(number):
        if mesh.rank == 1:
            time.sleep(0.1)
        return batch(number)
    run.loader.batch = slowed
    return run
rank_main.build_run = build
"""


@pytest.mark.slow
def test_a_run_names_the_rank_whose_data_are_slow(tmp_path: Path) -> None:
    config = write_config(tmp_path, make_shards(tmp_path))
    steps = WINDOW_STEPS + 2
    overrides = ["parallel.data=2", f"train.steps={steps}", "evaluate.every_steps=5", "checkpoint.every_steps=0"]
    done = lehr("train", config, *overrides, before=SLOW_DATA, timeout=200)
    assert done.returncode == 0, done.stderr
    assert f"step {WINDOW_STEPS + 1}  warning: slow ranks, over the last {WINDOW_STEPS} steps:\n" in done.stderr
    named = re.search(rf"\n  rank 1 \(node {socket.gethostname()}, cpu\): (\d+\.\d+)", done.stderr)
    assert named is not None, done.stderr
    assert float(named[1]) >= 0.1
    (row,) = [row for row in read_metrics(tmp_path / "runs" / "try" / "metrics.jsonl") if "rank_seconds/slowest" in row]
    assert (row["step"], row["rank_seconds/slowest_rank"]) == (WINDOW_STEPS + 1, 1)
    assert row["rank_seconds/slowest"] > max(0.1, row["rank_seconds/median"])
    assert row["rank_seconds/median"] > 0
