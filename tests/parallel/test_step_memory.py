"""The most that a rank holds in a step, besides what it holds between steps: activations in flight, and logits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from live_memory import LiveMemory
from parallel_runs import SEQ_LENGTH, Trial, global_batches, local_micro_batches, start
from processes import run_ranks

from model.memory import LayoutSizes, logits_bytes, rank_bytes

MODEL = {"num_layers": 8, "hidden_size": 64, "ffn_size": 512}  # activations outweigh the rest of a step


def _most_in_a_step(trial: Trial) -> int:
    """Returns the most bytes that a step after the first one holds besides what is held between steps."""
    mesh, parts = start(trial)
    first, second = itertools.islice(global_batches(), 2)
    parts.engine.train_step(local_micro_batches(first, trial, mesh, parts), lr=1e-3)
    micro_batches = local_micro_batches(second, trial, mesh, parts)
    with LiveMemory() as memory:
        parts.engine.train_step(micro_batches, lr=1e-3)
    return memory.most


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel",
    [{"tensor": 2}, {"tensor": 2, "sequence": True}, {"pipeline": 2}, {"pipeline": 2, "virtual_stages": 2}],
    ids=str,
)
def test_a_step_holds_the_activations_of_the_micro_batches_in_flight(parallel: dict[str, Any]) -> None:
    trial = Trial(model=MODEL, parallel=parallel, micro_batch_size=2)
    found = run_ranks(2, _most_in_a_step, trial, timeout=200)
    layout = LayoutSizes(**parallel)
    rank = rank_bytes(trial.model_config(), layout, seq_length=SEQ_LENGTH, micro_batch_size=2, micro_batches=4)
    logits = logits_bytes(trial.model_config(), layout, tokens=2 * SEQ_LENGTH)
    expected = rank.activations + logits
    assert expected <= max(found) < 1.06 * expected  # a layer's temporary buffers come on top
