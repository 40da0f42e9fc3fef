"""The weights of a new run are drawn; those of a run that resumes are loaded, and not drawn before."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from parallel_runs import Trial, allocated, made_up
from processes import run_ranks

from launcher.run.build_run import load_or_draw
from train.checkpoint.manager import CheckpointManager
from train.checkpoint.writer_lease import WriterLease
from train.state import TrainState


def _steps_and_draws(folder: Path) -> list[tuple[int | None, int]]:
    """Returns, of a new run and of its resume, the step of the checkpoint and how often weights are drawn."""
    trial = Trial(model={"num_layers": 1})
    mesh, parts = allocated(trial)
    weights = {name: part for name, part in parts.engine.state(saving=False).items() if name.startswith("model.")}
    assert not any(part.tensor.any() for part in weights.values())
    drawn: list[int] = []

    def draw_weights() -> None:
        drawn.append(1)
        parts.draw_weights()

    counted = dataclasses.replace(parts, draw_weights=draw_weights)
    checkpoints = CheckpointManager(folder, mesh, model={}, lease=WriterLease.take(folder))
    first = load_or_draw(checkpoints, counted), len(drawn)
    assert all(part.tensor.any() for part in weights.values())
    for name, part in weights.items():
        part.fill(made_up(name, part.shard_shape))
    checkpoints.save(parts.engine, TrainState(step=3))
    state = load_or_draw(checkpoints, counted)
    assert all(torch.equal(part.tensor, made_up(name, part.shard_shape)) for name, part in weights.items())
    return [
        (None if first[0] is None else first[0].step, first[1]),
        (None if state is None else state.step, len(drawn)),
    ]


def test_weights_are_drawn_only_where_no_checkpoint_is_loaded(tmp_path: Path) -> None:
    assert run_ranks(1, _steps_and_draws, tmp_path) == [[(None, 1), (3, 1)]]
