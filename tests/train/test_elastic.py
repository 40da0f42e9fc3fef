"""A checkpoint of any layout goes on in any other with the unbroken run's losses; in the same one, to the bit."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from parallel_runs import Trial, global_batches, local_micro_batches, start
from processes import run_ranks

from train.checkpoints import Checkpoints, latest_checkpoint
from train.state import TrainState

SAVED_AFTER, STEPS = 5, 10
LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {},
    "tensor2-sequence": {"tensor": 2, "sequence": True},
    "pipeline2-interleaved": {"pipeline": 2, "virtual_stages": 2},
    "data2-zero0": {"data": 2, "zero": 0},
    "data2-zero1": {"data": 2, "zero": 1},
    "data2-zero2": {"data": 2, "zero": 2},
    "data2-zero3": {"data": 2, "zero": 3},
    "tensor2-pipeline2-data2-zero1": {"tensor": 2, "pipeline": 2, "data": 2, "zero": 1},
}


def trial(layout: str, **more: Any) -> Trial:
    return Trial(parallel=LAYOUTS[layout], steps=STEPS, model={"tied_embeddings": True}, **more)


def save_on_a_rank(folder: Path, trial: Trial) -> list[float]:
    """Train all steps, saving on the way; the losses of all steps."""
    mesh, parts = start(trial)
    checkpoints = Checkpoints(folder, mesh, keep_last=2, model=trial.model_config().to_plain())
    losses = []
    for step, batch in enumerate(itertools.islice(global_batches(), STEPS), start=1):
        result = parts.engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=trial.optimizer.lr)
        losses.append(result.nll / int(batch.mask.sum()))
        if step == SAVED_AFTER:
            checkpoints.save(parts.engine, TrainState(step=step, optimizer_steps=parts.engine.optimizer_steps))
    checkpoints.wait()
    dist.barrier()
    return losses


def resume_on_a_rank(folder: Path, trial: Trial) -> list[float]:
    """Load, train the remaining steps; their losses."""
    mesh, parts = start(trial)
    checkpoints = Checkpoints(folder, mesh, keep_last=2, model=trial.model_config().to_plain())
    latest = latest_checkpoint(folder)
    assert latest is not None
    state = checkpoints.load(parts.engine, latest)
    assert (state.step, state.optimizer_steps) == (SAVED_AFTER, SAVED_AFTER)
    losses = []
    for batch in itertools.islice(global_batches(), state.step, STEPS):
        result = parts.engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=trial.optimizer.lr)
        losses.append(result.nll / int(batch.mask.sum()))
    return losses


def ranks(layout: str) -> int:
    parallel = LAYOUTS[layout]
    return int(parallel.get("tensor", 1) * parallel.get("pipeline", 1) * parallel.get("data", 1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """layout -> (its checkpoints' folder, the losses of its unbroken run)."""

    @cache
    def save(layout: str) -> tuple[Path, list[float]]:
        folder = tmp_path_factory.mktemp(layout)
        losses = run_ranks(ranks(layout), save_on_a_rank, folder, trial(layout), timeout=120)
        return folder, losses[0]

    return save


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_layout_to_the_bit(layout: str, saved: Any) -> None:
    folder, unbroken = saved(layout)
    found = run_ranks(ranks(layout), resume_on_a_rank, folder, trial(layout), timeout=120)
    assert found == [unbroken[SAVED_AFTER:]] * ranks(layout)


# Every layout is left once and entered once, along a circle; and one process exchanges with those of most parts.
_CIRCLE = list(zip(LAYOUTS, [*list(LAYOUTS)[1:], "one"], strict=True))
_PAIRS = [*_CIRCLE, ("one", "tensor2-pipeline2-data2-zero1"), ("data2-zero3", "one"), ("data2-zero2", "data2-zero1")]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), _PAIRS)
def test_another_layout(before: str, after: str, saved: Any) -> None:
    folder, unbroken = saved(before)
    found = run_ranks(ranks(after), resume_on_a_rank, folder, trial(after), timeout=120)
    for losses in found:
        assert losses == pytest.approx(unbroken[SAVED_AFTER:], rel=1e-5)


def test_nothing_but_safetensors_and_json(saved: Any) -> None:
    folder, _ = saved("tensor2-sequence")
    latest = latest_checkpoint(folder)
    assert latest is not None
    assert {path.suffix for path in latest.iterdir()} == {".safetensors", ".json"}
