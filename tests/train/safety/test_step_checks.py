"""Steps that are not finite, and loss spikes, in runs of every engine; the faults are injected into batches."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_shards import documents, write_source
from processes import RanksFailedError, run_ranks, store_of_ranks

from launcher.run.build_run import build_run
from launcher.run.config import RunConfig
from parallel.build import ComputeConfig
from parallel.chunk import MicroBatch
from parallel.engines.engine import StepResult
from parallel.mesh import make_mesh
from train.loop import Run, train
from train.metrics.jsonl import read_metrics
from train.run_folder.folder import RunFolder
from train.run_folder.open_run import open_run
from train.run_folder.start_record import Start
from train.safety.watchdog import Watchdog

STEPS, VOCABULARY = 12, 100


class Between:
    """The real engine, with what `change` makes of each step's micro-batches; it records its state before and after."""

    def __init__(self, run: Run, change: Callable[[Run, MicroBatch], MicroBatch]) -> None:
        self._run, self._engine, self._change = run, run.engine, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def train_step(self, micro_batches: Sequence[MicroBatch], *, lr: float) -> StepResult:
        before = held(self._engine)
        result = self._engine.train_step([self._change(self._run, batch) for batch in micro_batches], lr=lr)
        after = held(self._engine)
        same = all(torch.equal(before[name], after[name]) for name in before)
        assert not before or same is result.skipped, "a skipped step changes nothing, any other does"
        return result


def held(engine: Any) -> dict[str, torch.Tensor]:
    """Returns what this rank would save, which is nothing if another rank saves it."""
    return {name: part.tensor.clone() for name, part in engine.state(saving=True).items()}


def not_finite_at(*steps: int) -> Callable[[Run, MicroBatch], MicroBatch]:
    """Makes the loss of the last data rank not a number at these steps (0-based)."""

    def change(run: Run, batch: MicroBatch) -> MicroBatch:
        data = run.mesh.data
        if run.state.step in steps and data.rank == data.size - 1:
            return dataclasses.replace(batch, weights_BT=batch.weights_BT * float("nan"))
        return batch

    return change


def spoilt(*numbers: int) -> Callable[[Run, MicroBatch], MicroBatch]:
    """Gives these batches targets that never come: their loss is high wherever in the run they are met."""

    def change(run: Run, batch: MicroBatch) -> MicroBatch:
        if run.state.batch in numbers:
            return dataclasses.replace(batch, targets_BT=torch.full_like(batch.targets_BT, VOCABULARY - 1))
        return batch

    return change


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    for name in ("alpha", "beta"):
        texts = [documents(rng, tokens=4000, vocab_size=20) for _ in range(2)]
        write_source(tmp_path / "shards", name, train=texts[:1], held_out=texts[1:], vocab_size=VOCABULARY)
    return {
        "run": {"name": "try", "folder": str(tmp_path), "seed": 1},
        "data": {"shards": str(tmp_path / "shards")},
        "model": {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "ffn_size": 48},
        "optim": {"name": "adamw", "lr": 5e-3},
        "schedule": {"name": "constant", "warmup_steps": 1},
        "train": {"steps": STEPS, "seq_length": 16, "micro_batch_size": 2, "global_batch_size": 8},
        "evaluate": {"every_steps": 0, "max_windows": 8},
        "checkpoint": {"every_steps": 5},
    }


def run_on_a_rank(
    plain: dict[str, Any], kind: str, numbers: Sequence[int], left_out: Any = (), die_after: int = 0
) -> dict[str, Any]:
    """Trains and returns the final state, with `left_out` batches, and dies after `die_after` steps if it is not 0."""
    config = RunConfig.model_validate(plain)
    mesh = make_mesh(config.parallel, timeout_seconds=60)
    folder = RunFolder(config.run.path)
    lease = open_run(config.run.path, config, Start(world_size=mesh.world_size)) if mesh.rank == 0 else None
    watchdog = Watchdog(60, lambda hang: None)
    run = build_run(
        config, mesh, folder, compute=ComputeConfig(), lease=lease, watchdog=watchdog, store=store_of_ranks()
    )
    if left_out:
        run.state = run.state.model_copy(update={"left_out": left_out})
    change = {"not finite": not_finite_at, "spoilt": spoilt}[kind](*numbers)
    taken = 0

    def counted(run: Run, batch: MicroBatch) -> MicroBatch:
        nonlocal taken
        taken += 1
        assert not die_after or taken <= die_after * 4, "died as told"
        return change(run, batch)

    run.engine = Between(run, counted)  # type: ignore[assignment]
    try:
        train(run)
    finally:
        run.checkpoints.wait()
        run.metrics.close()
        run.loader.close()
        if lease is not None:
            lease.release()
    return run.state.to_plain()


def events(plain: dict[str, Any]) -> list[dict[str, Any]]:
    path = Path(plain["run"]["folder"]) / plain["run"]["name"] / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(plain: dict[str, Any]) -> list[float]:
    path = Path(plain["run"]["folder"]) / plain["run"]["name"] / "metrics.jsonl"
    return [line["loss"] for line in read_metrics(path) if "loss" in line]


ENGINES: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {}),
    "tensor": (2, {"tensor": 2, "sequence": True}),
    "pipeline": (2, {"pipeline": 2}),
    "zero0": (2, {"data": 2, "zero": 0}),
    "zero1": (2, {"data": 2, "zero": 1}),
    "zero2": (2, {"data": 2, "zero": 2}),
    "zero3": (2, {"data": 2, "zero": 3}),
}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_that_is_not_finite_is_skipped_on_all_ranks_and_told(plain: dict[str, Any], engine: str) -> None:
    ranks, parallel = ENGINES[engine]
    states = run_ranks(ranks, run_on_a_rank, {**plain, "parallel": parallel}, "not finite", (3, 4, 8), timeout=120)
    assert states == [states[0]] * ranks
    state = states[0]
    assert (state["step"], state["optimizer_steps"], state["skipped_steps"], state["skipped_in_a_row"]) == (
        STEPS,
        STEPS - 3,
        3,
        0,
    )
    told = events(plain)
    assert [(event["event"], event["step"], event["in_a_row"]) for event in told] == [
        ("skipped", 4, 1),
        ("skipped", 5, 2),
        ("skipped", 9, 1),
    ]
    for event in told:
        assert set(event["samples"]) == {"alpha", "beta"}
        assert sum(map(len, event["samples"].values())) == 8


@pytest.mark.slow
def test_too_many_in_a_row_end_the_run_with_their_samples(plain: dict[str, Any]) -> None:
    plain["train"]["max_skipped_steps"] = 2
    with pytest.raises(RanksFailedError) as error:
        run_ranks(2, run_on_a_rank, {**plain, "parallel": {"data": 2}}, "not finite", (2, 3, 4, 5), timeout=120)
    text = str(error.value)
    assert "3 steps in a row had no finite loss or gradient, more than train.max_skipped_steps = 2" in text
    assert "the last was step 5" in text
    last = events(plain)[-1]
    assert (last["step"], last["in_a_row"]) == (5, 3)
    assert f"alpha {last['samples']['alpha'][0]}" in text


SPIKES = {"sigma": 6.0, "window_steps": 4, "max_rollbacks": 2}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["one", "zero3", "pipeline"])
def test_a_spike_rolls_back_and_leaves_its_batches_out_as_if_they_had_never_been(
    plain: dict[str, Any], engine: str
) -> None:
    ranks, parallel = ENGINES[engine]
    plain = {**plain, "parallel": parallel, "train": {**plain["train"], "spikes": SPIKES}}
    states = run_ranks(ranks, run_on_a_rank, plain, "spoilt", (7,), timeout=120)
    assert states == [states[0]] * ranks
    assert (states[0]["step"], states[0]["rollbacks"]) == (STEPS, 1)
    assert [list(part) for part in states[0]["left_out"]] == [[5, 7]]
    (event,) = events(plain)
    assert (event["event"], event["step"], event["to_step"], event["left_out"]) == ("rollback", 8, 5, [[5, 7]])
    assert sum(map(len, event["samples"].values())) == 8
    never = {**plain, "run": {**plain["run"], "name": "never"}}
    run_ranks(ranks, run_on_a_rank, never, "spoilt", (), ((5, 7),), timeout=120)
    assert losses(plain) == losses(never)
    assert len(losses(plain)) == STEPS


@pytest.mark.slow
def test_a_run_that_dies_after_a_rollback_comes_to_the_same(plain: dict[str, Any]) -> None:
    plain["train"]["spikes"] = SPIKES
    whole = {**plain, "run": {**plain["run"], "name": "whole"}}
    run_ranks(1, run_on_a_rank, whole, "spoilt", (7,), timeout=120)
    with pytest.raises(RanksFailedError, match="died as told"):
        run_ranks(1, run_on_a_rank, plain, "spoilt", (7,), (), 9, timeout=120)  # 8 steps, a rollback, one more
    (state,) = run_ranks(1, run_on_a_rank, plain, "spoilt", (7,), timeout=120)
    assert state["rollbacks"] == 1
    assert losses(plain) == losses(whole)


@pytest.mark.slow
def test_no_more_rollbacks_than_allowed_and_none_without_a_checkpoint(plain: dict[str, Any]) -> None:
    plain["train"]["spikes"] = {**SPIKES, "max_rollbacks": 1}
    (state,) = run_ranks(1, run_on_a_rank, plain, "spoilt", (7, 12), timeout=120)
    assert (state["step"], state["rollbacks"]) == (STEPS, 1)
    assert [event["event"] for event in events(plain)] == ["rollback", "spike"]
    without = {**plain, "run": {**plain["run"], "name": "without"}, "checkpoint": {"every_steps": 0}}
    (state,) = run_ranks(1, run_on_a_rank, without, "spoilt", (7,), timeout=120)
    assert (state["step"], state["rollbacks"]) == (STEPS, 0)
    assert [event["event"] for event in events(without)] == ["spike"]


def test_a_step_without_a_counted_token_has_no_loss(plain: dict[str, Any]) -> None:
    """Three steps draw from a source whose loss mask leaves out all: no loss that the next ones would be a spike of."""
    shards = Path(plain["data"]["shards"])
    tokens = list(range(1, 20)) * 50
    write_source(shards, "masked", train=[[tokens]], loss={0: [[False] * len(tokens)]}, vocab_size=VOCABULARY)
    plain["data"] |= {"mixture": {"masked": 1}, "stages": [{"from_step": 3, "mixture": {"alpha": 1}}]}
    plain["train"] |= {"steps": 8, "spikes": {"sigma": 3, "window_steps": 4}}
    (state,) = run_ranks(1, run_on_a_rank, plain, "not finite", (), timeout=120)
    path = Path(plain["run"]["folder"]) / plain["run"]["name"] / "metrics.jsonl"
    lines = [line for line in map(json.loads, path.read_text().splitlines()) if "lr" in line]
    assert [line["loss"] for line in lines[:3]] == [None] * 3
    assert all(0 < line["loss"] < 10 for line in lines[3:])
    assert list(state["recent_losses"]) == [line["loss"] for line in lines[4:]]
    first, last = events(plain)
    assert (first["event"], first["step"], set(first["samples"])) == ("no_tokens", 1, {"masked"})
    assert (last["event"], last["step"], last["steps"]) == ("no_tokens_in_all", 8, 3)
