"""An engine's state by global names: saved in one layout and loaded in another, every optimizer continues the run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from parallel_runs import (
    Trial,
    example,
    full_tensor,
    global_batches,
    local_micro_batches,
    merged_weights,
    ranks_of,
    start,
)
from processes import run_ranks
from torch import Tensor

from optim.optimizer import OPTIMIZERS
from parallel.build import TrainableModel
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, make_mesh
from parallel.parameter_shards import shard_of

NAMES = OPTIMIZERS.names()
CHAIN: dict[str, dict[str, Any]] = {
    "tensor2-sequence": {"tensor": 2, "sequence": True},
    "pipeline2-interleaved": {"pipeline": 2, "virtual_stages": 2},
    "data2-zero1": {"data": 2, "zero": 1},
    "tensor2-pipeline2-data2-zero1": {"tensor": 2, "pipeline": 2, "data": 2, "zero": 1},
    "data2-zero0": {"data": 2, "zero": 0},
    "tensor2-data2-zero1-offload": {"tensor": 2, "data": 2, "zero": 1, "offload": "optimizer"},
    "one": {},
}
STEPS_EACH = 3


@dataclass(frozen=True)
class Stretch:
    """Some steps of a run on one rank: their losses, and the rank's part of the state after them, as full tensors."""

    losses: list[float]
    state: dict[str, Tensor]


def trials(parallel: dict[str, Any]) -> dict[str, Trial]:
    return {
        name: Trial(
            model={"hidden_size": 32, "ffn_size": 48, "tied_embeddings": True},
            parallel=parallel,
            optimizer=example(name),
            micro_batch_size=4,
            all_tokens=True,
        )
        for name in NAMES
    }


def load(state: Mapping[str, Tensor], parts: TrainableModel, mesh: Mesh, *, steps: int) -> None:
    """Loads full tensors into an engine."""
    for key, part in parts.engine.state(saving=False).items():
        part.tensor.copy_(shard_of(state[key], part.dim, mesh.tensor))
    parts.engine.loaded(optimizer_steps=steps)


def train(trial: Trial, mesh: Mesh, state: Mapping[str, Tensor] | None, first: int, steps: int) -> Stretch:
    _, parts = start(trial, mesh)
    if state is not None:
        load(state, parts, mesh, steps=first)
    losses = []
    for batch in itertools.islice(global_batches(all_tokens=True), first, first + steps):
        result = parts.engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=trial.optimizer.lr)
        losses.append(result.nll / int(batch.mask.sum()))
    assert parts.engine.optimizer_steps == first + steps
    return Stretch(losses, {key: full_tensor(part, mesh) for key, part in parts.engine.state(saving=True).items()})


def _stretches_on_a_rank(
    parallel: dict[str, Any], states: dict[str, dict[str, Tensor]] | None, first: int, steps: int
) -> dict[str, Stretch]:
    mesh = make_mesh(ParallelConfig(**parallel), timeout_seconds=60)
    return {
        name: train(trial, mesh, None if states is None else states[name], first, steps)
        for name, trial in trials(parallel).items()
    }


def stretches(
    parallel: dict[str, Any], states: dict[str, dict[str, Tensor]] | None, first: int, steps: int
) -> dict[str, Stretch]:
    """Returns the merged stretches of all ranks, by optimizer."""
    by_rank = run_ranks(ranks_of(parallel), _stretches_on_a_rank, parallel, states, first, steps, timeout=200)
    return {
        name: Stretch(by_rank[0][name].losses, merged_weights([rank[name].state for rank in by_rank])) for name in NAMES
    }


@pytest.mark.slow
def test_a_run_that_changes_its_layout_every_three_steps_equals_the_unbroken_one() -> None:
    unbroken = stretches({}, None, 0, STEPS_EACH * len(CHAIN))
    states: dict[str, dict[str, Tensor]] | None = None
    losses: dict[str, list[float]] = {name: [] for name in NAMES}
    for number, parallel in enumerate(CHAIN.values()):
        found = stretches(parallel, states, number * STEPS_EACH, STEPS_EACH)
        states = {name: stretch.state for name, stretch in found.items()}
        for name, stretch in found.items():
            losses[name] += stretch.losses
            assert stretch.state.keys() == unbroken[name].state.keys(), (number, name)
    assert states is not None
    for name, wanted in unbroken.items():
        assert losses[name] == pytest.approx(wanted.losses, rel=1e-5), name
        for key, tensor in wanted.state.items():
            assert states[name][key].shape == tensor.shape, key
            if key.startswith("model."):
                assert float((states[name][key] - tensor).norm() / tensor.norm()) < 1e-4, (name, key)


def _stopped_and_unbroken(parallel: dict[str, Any]) -> dict[str, bool]:
    """Returns, by optimizer, whether 3 steps and 3 more in a new engine with their state are 6 steps to the bit."""
    mesh = make_mesh(ParallelConfig(**parallel), timeout_seconds=60)
    same = {}
    for name, trial in trials(parallel).items():
        unbroken = train(trial, mesh, None, 0, 6)
        _, parts = start(trial, mesh)
        before = [
            parts.engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=trial.optimizer.lr).nll
            for batch in itertools.islice(global_batches(all_tokens=True), 3)
        ]
        saved = {key: part.tensor.clone() for key, part in parts.engine.state(saving=False).items()}
        _, parts = start(trial, mesh)
        for key, part in parts.engine.state(saving=False).items():
            part.tensor.copy_(saved[key])
        parts.engine.loaded(optimizer_steps=3)
        losses = []
        for batch in itertools.islice(global_batches(all_tokens=True), 3, 6):
            result = parts.engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=trial.optimizer.lr)
            losses.append(result.nll / int(batch.mask.sum()))
        weights = {key: full_tensor(part, mesh) for key, part in parts.engine.state(saving=True).items()}
        assert len(before) == 3
        same[name] = losses == unbroken.losses[3:] and all(
            torch.equal(weights[key], tensor) for key, tensor in unbroken.state.items()
        )
    return same


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tensor2-sequence", "tensor2-pipeline2-data2-zero1"])
def test_in_the_same_layout_it_continues_to_the_bit(layout: str) -> None:
    for rank in run_ranks(ranks_of(CHAIN[layout]), _stopped_and_unbroken, CHAIN[layout], timeout=200):
        assert rank == dict.fromkeys(NAMES, True)
