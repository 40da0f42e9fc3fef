"""What an engine says that it holds is what the arithmetic estimates, in every layout."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from parallel_runs import ROWS, SEQ_LENGTH, Trial, global_batches, local_micro_batches, start
from processes import run_ranks

from model.memory import LayoutSizes, RankBytes, rank_bytes
from parallel.engines.engine import HeldBytes


def held_on_a_rank(trial: Trial) -> HeldBytes:
    mesh, parts = start(trial)
    (batch,) = itertools.islice(global_batches(), 1)
    parts.engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=1e-3)
    return parts.engine.held_bytes()


def estimate(trial: Trial, *, precision: str) -> RankBytes:
    parallel = {key: value for key, value in trial.parallel.items() if key != "offload"}
    layout = LayoutSizes(**{"data": 1, **parallel}, bfloat16=precision == "bfloat16")
    return rank_bytes(trial.model_config(), layout, seq_length=SEQ_LENGTH, micro_batch_size=ROWS)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "parallel",
    [
        {"data": 2, "zero": 0},
        {"tensor": 2, "zero": 1},
        {"tensor": 2, "sequence": True},
        {"pipeline": 2, "virtual_stages": 2},
        {"data": 2, "zero": 1},
        {"data": 2, "zero": 3},
    ],
    ids=str,
)
def test_an_engine_holds_what_is_estimated(parallel: dict[str, Any], precision: str) -> None:
    trial = Trial(parallel=parallel, compute={"precision": precision}, micro_batch_size=2)
    found, expected = run_ranks(2, held_on_a_rank, trial, timeout=120), estimate(trial, precision=precision)
    most = max(found, key=lambda one: one.total)
    # Owners of whole parameters have unequal shares.
    assert most.weights == pytest.approx(expected.weights, rel=0.02)
    assert most.gradients == pytest.approx(expected.gradients, rel=0.02)
    assert most.optimizer == pytest.approx(expected.optimizer, rel=0.2)
