"""A weight that differs between data ranks by one bit ends the run, and the message names rank, node and parameter."""

from __future__ import annotations

import itertools
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parallel_runs import Trial, global_batches, local_micro_batches, start
from processes import lehr, run_ranks
from small_runs import make_shards, write_config

from train.metrics.jsonl import read_metrics
from train.safety.weight_comparison import (
    WeightsDifferError,
    WeightSums,
    compare_weights,
    describe_differences,
    sum_of_bits,
)


@given(st.integers(0, 99), st.integers(0, 31))
def test_every_single_bit_changes_the_sum(element: int, bit: int) -> None:
    weight = torch.linspace(-2.0, 3.0, 100).reshape(4, 25)
    for dtype, bits in ((torch.float32, 32), (torch.bfloat16, 16)):
        changed = weight.to(dtype)
        before = int(sum_of_bits(changed))
        flip(changed, element, bit % bits)
        assert int(sum_of_bits(changed)) != before
        flip(changed, element, bit % bits)
        assert int(sum_of_bits(changed)) == before


def test_ranks_are_named_by_the_majority_of_their_group() -> None:
    def rank(number: int, group: int, **sums: int) -> WeightSums:
        return WeightSums(f"rank {number}", group, sums)

    equal = [rank(number, number % 2, a=number % 2, b=7) for number in range(6)]
    assert describe_differences(equal) == []
    assert describe_differences([*equal[:4], rank(4, 0, a=5, b=8), equal[5]]) == [
        "rank 4 differs from the majority in a, b"
    ]
    assert describe_differences([rank(0, 0, a=1, b=1), rank(1, 0, a=1, b=2)]) == [
        "rank 0 and rank 1 differ from each other, without a majority, in b"
    ]
    names = {f"w{number}": 0 for number in range(7)}
    many = [rank(0, 0, **names), rank(1, 0, **names), rank(2, 0, **dict.fromkeys(names, 1))]
    assert describe_differences(many) == ["rank 2 differs from the majority in w0, w1, w2, w3, w4 and 2 more"]


def flip(weight: torch.Tensor, element: int, bit: int) -> None:
    """Flips one bit in place."""
    integers = {2: torch.int16, 4: torch.int32}[weight.element_size()]
    weight.view(-1).view(integers)[element] ^= torch.tensor(1 << bit).to(integers)


def messages_on_a_rank(trial: Trial) -> tuple[list[str], str]:
    """Compares after a step, and again with a bit flipped on the last rank. Returns names and the message."""
    mesh, parts = start(trial)
    (batch,) = itertools.islice(global_batches(), 1)
    parts.engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=1e-3)
    compare_weights(parts.engine, mesh, step=1)
    weights = parts.engine.replicated_weights()
    if mesh.rank == mesh.world_size - 1:
        flip(weights[min(weights)], 0, 3)
    try:
        compare_weights(parts.engine, mesh, step=2)
    except WeightsDifferError as error:
        return sorted(weights), str(error)
    return sorted(weights), ""


@pytest.mark.parametrize(
    "parallel",
    [
        {"data": 4, "zero": 0},
        {"tensor": 2, "data": 2, "zero": 1},
        {"pipeline": 2, "data": 2, "zero": 1},
        pytest.param({"data": 4, "zero": 2}, marks=pytest.mark.slow),
        pytest.param({"data": 4, "zero": 3}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_flipped_bit_is_named_in_every_layout(parallel: dict[str, Any]) -> None:
    trial = Trial(parallel=parallel, compute={"precision": "bfloat16"}, micro_batch_size=1)
    found = run_ranks(4, messages_on_a_rank, trial, timeout=120)
    messages = [message for _, message in found]
    assert len(set(messages)) == 1  # every rank raises, also those whose own weights agree
    name = found[-1][0][0]
    place = f"rank 3 (node {socket.gethostname()}, cpu)"
    if parallel["data"] == 4:
        assert f"\n  {place} differs from the majority in {name}\n" in messages[0]
    else:
        assert f" and {place} differ from each other, without a majority, in {name}\n" in messages[0]
        assert messages[0].count("rank ") == 2


# The steps after the first checkpoint wait, so that its files are written before the run ends.
ONE_BIT = """
import time
import launcher.run.rank_main as rank_main
build_run = rank_main.build_run
def build(config, mesh, folder, **more):
    run = build_run(config, mesh, folder, **more)
    train_step = run.engine.train_step
    def flipping(*arguments, **keywords):
        result = train_step(*arguments, **keywords)
        time.sleep(1.0 if run.state.step >= 5 else 0.0)
        if mesh.rank == 1 and run.state.step == 5:
            import torch
            run.engine.replicated_weights()["embedding.weight"].view(torch.int32)[3, 4] ^= 1
        return result
    run.engine.train_step = flipping
    return run
rank_main.build_run = build
"""


@pytest.mark.slow
def test_a_run_ends_before_it_saves_weights_that_differ(tmp_path: Path) -> None:
    """Without the comparison the run goes on to its end; a comparison comes before each checkpoint."""
    config = write_config(tmp_path, make_shards(tmp_path))

    def lehr_train(*overrides: str) -> subprocess.CompletedProcess[str]:
        sizes = ["parallel.data=3", "parallel.zero=0", "train.global_batch_size=6", "evaluate.every_steps=0"]
        return lehr("train", config, *sizes, *overrides, before=ONE_BIT, timeout=200)

    run = tmp_path / "runs" / "try"
    done = lehr_train()
    assert done.returncode == 1
    assert "after step 8 data ranks hold different weights" in done.stderr
    assert f"rank 1 (node {socket.gethostname()}, cpu) differs from the majority in " in done.stderr
    assert "Traceback" not in done.stderr
    assert (run / "checkpoints" / "latest").read_text().strip() == "step-00000004"
    done = lehr_train("run.name=often", "train.compare_weights_every_steps=3")
    assert done.returncode == 1
    assert "after step 6 data ranks hold different weights" in done.stderr
    assert "differs from the majority in embedding.weight" in done.stderr
    assert read_metrics(tmp_path / "runs" / "often" / "metrics.jsonl")[-1]["step"] == 6
    assert lehr_train("run.name=never", "train.compare_weights_every_steps=0").returncode == 0
