"""A checkpoint of any layout resumes in any other with the losses of the unbroken run; in the same one, to the bit."""

from __future__ import annotations

import dataclasses
import itertools
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from parallel_runs import (
    PARITY_LAYOUTS,
    Trial,
    example,
    global_batches,
    local_micro_batches,
    on_a_rank,
    start,
)
from processes import run_ranks

from optim.optimizer import OPTIMIZERS
from optim.transforms.base import TRANSFORMS
from train.checkpoint.discovery import latest_checkpoint
from train.checkpoint.manager import CheckpointManager
from train.checkpoint.writer_lease import WriterLease
from train.state import TrainState

SAVED_AFTER, STEPS = 5, 15
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
    """Trains all steps and saves on the way. Returns the losses of all steps."""
    mesh, parts = start(trial)
    lease = WriterLease.take(folder) if mesh.rank == 0 else None
    checkpoints = CheckpointManager(folder, mesh, model=trial.model_config().to_plain(), lease=lease)
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
    """Loads a checkpoint and trains the remaining steps. Returns their losses."""
    mesh, parts = start(trial)
    checkpoints = CheckpointManager(folder, mesh, model=trial.model_config().to_plain())
    state = checkpoints.load_latest(parts.engine)
    assert state is not None
    assert (state.step, state.optimizer_steps) == (SAVED_AFTER, SAVED_AFTER)
    losses = []
    for batch in itertools.islice(global_batches(), state.step, STEPS):
        result = parts.engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=trial.optimizer.lr)
        losses.append(result.nll / int(batch.mask.sum()))
    return losses


def ranks(layout: str) -> int:
    return ranks_of(LAYOUTS[layout])


def ranks_of(parallel: dict[str, Any]) -> int:
    return int(parallel.get("tensor", 1) * parallel.get("pipeline", 1) * parallel.get("data", 1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Maps each layout to (the folder of its checkpoints, the losses of its unbroken run)."""

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


_PAIRS = [
    ("one", "tensor2-pipeline2-data2-zero1"),
    ("pipeline2-interleaved", "tensor2-sequence"),
    ("data2-zero3", "one"),
    ("data2-zero2", "data2-zero1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), _PAIRS)
def test_another_layout(before: str, after: str, saved: Any) -> None:
    folder, unbroken = saved(before)
    found = run_ranks(ranks(after), resume_on_a_rank, folder, trial(after), timeout=120)
    for losses in found:
        assert losses == pytest.approx(unbroken[SAVED_AFTER:], rel=1e-5)


def leg_on_a_rank(folder: Path, trial: Trial, first: int, last: int) -> list[float]:
    """Resumes at the checkpoint of step `first`, trains to step `last` and saves. Returns the losses on the way."""
    mesh, parts = start(trial)
    lease = WriterLease.take(folder) if mesh.rank == 0 else None
    checkpoints = CheckpointManager(folder, mesh, model=trial.model_config().to_plain(), lease=lease)
    state = checkpoints.load_latest(parts.engine) or TrainState()
    assert (state.step, parts.engine.optimizer_steps) == (first, first)
    losses = []
    for batch in itertools.islice(global_batches(all_tokens=trial.all_tokens), first, last):
        result = parts.engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=trial.optimizer.lr)
        losses.append(result.nll / int(batch.mask.sum()))
    checkpoints.save(parts.engine, TrainState(step=last, optimizer_steps=parts.engine.optimizer_steps))
    checkpoints.wait()
    dist.barrier()
    return losses


def losses_through(layouts: list[dict[str, Any]], folder: Path, trial: Trial, *, steps_each: int) -> list[float]:
    """Returns the losses of one run that changes its layout every `steps_each` steps."""
    losses = []
    for number, parallel in enumerate(layouts):
        leg = dataclasses.replace(trial, parallel=parallel)
        first = number * steps_each
        found = run_ranks(ranks_of(parallel), leg_on_a_rank, folder, leg, first, first + steps_each, timeout=120)
        assert found == [found[0]] * len(found)
        losses += found[0]
    return losses


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_through_every_layout_of_the_parity_list(tmp_path: Path) -> None:
    """A run that is saved in each layout and resumed in the next has the losses of a run that stays in one."""
    layouts = list(PARITY_LAYOUTS.values())
    random.Random(0).shuffle(layouts)
    trial = Trial(steps=len(layouts), model={"tied_embeddings": True})
    (unbroken,) = run_ranks(1, on_a_rank, trial)
    assert losses_through(layouts, tmp_path, trial, steps_each=1) == pytest.approx(unbroken.losses, rel=1e-5)


TRANSFORM_LAYOUTS = ("data2-zero2", "tensor2-sequence", "data2-zero1-offload", "pipeline2", "data2-zero3")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", TRANSFORMS.names())
def test_transforms_go_on_in_another_layout(name: str, tmp_path: Path) -> None:
    """Each leg begins in the middle of what the transform does: its state is cut, gathered and cut otherwise."""
    optimizer = example("adamw", clip_grad_norm=0.5, transforms=[TRANSFORMS[name].examples()[0].to_plain()])
    trial = Trial(steps=2 * len(TRANSFORM_LAYOUTS), optimizer=optimizer, all_tokens=True)
    (unbroken,) = run_ranks(1, on_a_rank, trial)
    layouts = [PARITY_LAYOUTS[layout] for layout in TRANSFORM_LAYOUTS]
    assert losses_through(layouts, tmp_path, trial, steps_each=2) == pytest.approx(unbroken.losses, rel=1e-5)


WHOLE_MATRIX_LAYOUTS: list[dict[str, Any]] = [
    {},
    {"tensor": 2, "sequence": True},
    {"data": 2, "zero": 1},
    {"pipeline": 2},
    {"data": 2, "zero": 0},
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS.names() if not OPTIMIZERS[name].elementwise])
def test_whole_matrix_optimizers_through_layouts(name: str, tmp_path: Path) -> None:
    """Their state too: projections and momenta of whole matrices, cut over tensor ranks or owned by data ranks."""
    optimizer = example(name, clip_grad_norm=0.5)
    trial = Trial(steps=2 * len(WHOLE_MATRIX_LAYOUTS), optimizer=optimizer, all_tokens=True)
    (unbroken,) = run_ranks(1, on_a_rank, trial)
    found = losses_through(WHOLE_MATRIX_LAYOUTS, tmp_path, trial, steps_each=2)
    assert found == pytest.approx(unbroken.losses, rel=1e-5)


@pytest.mark.slow
def test_nothing_but_safetensors_and_json(saved: Any) -> None:
    folder, _ = saved("tensor2-sequence")
    latest = latest_checkpoint(folder)
    assert latest is not None
    assert {path.suffix for path in latest.iterdir()} == {".safetensors", ".json"}
