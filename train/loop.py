"""The loop: read it top to bottom to see what a step does. It knows nothing of the layout."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from data.held_out import HeldOut
from data.loader import Loader
from model.attention import Documents
from parallel.engine import Engine, StepResult
from parallel.mesh import Mesh
from settings import Settings
from train.batches import name_samples, to_local_batch
from train.checkpoints import Checkpoints
from train.config import CheckpointConfig, EvaluateConfig, TrainConfig
from train.evaluate import Evaluation, evaluate
from train.metrics import Metrics
from train.state import TrainState
from train.stop import Stop


class LoopConfig(Settings):
    """The sections that the loop reads."""

    train: TrainConfig
    evaluate: EvaluateConfig
    checkpoint: CheckpointConfig


@dataclass
class Run:
    """All parts of a run, built; `state` is where it stands."""

    config: LoopConfig
    mesh: Mesh
    engine: Engine
    documents: Callable[[Tensor], Documents | None]  # document numbers [B, T] -> what attention needs of them
    loader: Loader
    held_out: HeldOut
    schedule: Callable[[int], float]
    checkpoints: Checkpoints
    metrics: Metrics
    stop: Stop
    state: TrainState


class DivergedError(RuntimeError):
    """Too many steps in a row without a finite gradient."""


def train(run: Run) -> bool:
    """Train to the last step. True when done, False when asked to stop early; either way the last step is saved."""
    steps = run.config.train.steps
    saved_step = run.state.step
    while run.state.step < steps:
        step = run.state.step
        started = time.perf_counter()
        batch = to_local_batch(
            run.loader.batch(step),
            run.mesh,
            micro_batch_size=run.config.train.micro_batch_size,
            documents=run.documents,
        )
        lr = run.schedule(step)
        result = run.engine.train_step(batch.micro_batches, lr=lr)
        run.state = _advanced(run.state, result, batch.tokens_global, run.engine.optimizer_steps)
        seconds = time.perf_counter() - started
        run.metrics.step(run.state, result, lr=lr, tokens=batch.tokens_global, seconds=seconds, batch_hash=batch.hash)
        _check_divergence(run, result)
        run.checkpoints.check()
        if run.stop.agreed():
            break
        looked_at = _due(run.config.evaluate.every_steps, run.state.step) or run.state.step == steps
        if looked_at and run.held_out.sources:
            evaluation = _evaluate(run)
            if evaluation is None:
                break
            run.metrics.evaluation(run.state, evaluation)
            run.state = run.state.evaluated(evaluation.loss)
        if _due(run.config.checkpoint.every_steps, run.state.step):
            run.checkpoints.save(run.engine, run.state)
            saved_step = run.state.step
    if run.state.step > saved_step:
        run.checkpoints.save(run.engine, run.state)
    run.checkpoints.wait()
    return run.state.step >= steps


def _advanced(state: TrainState, result: StepResult, tokens: int, optimizer_steps: int) -> TrainState:
    return TrainState(
        step=state.step + 1,
        tokens=state.tokens + tokens,
        optimizer_steps=optimizer_steps,
        skipped_steps=state.skipped_steps + result.skipped,
        skipped_in_a_row=state.skipped_in_a_row + 1 if result.skipped else 0,
    )


def _evaluate(run: Run) -> Evaluation | None:
    train = run.config.train
    return evaluate(
        run.engine,
        run.held_out,
        run.mesh,
        micro_batch_size=train.micro_batch_size,
        micro_batches=train.global_batch_size // (train.micro_batch_size * run.mesh.data.size),
        max_windows=run.config.evaluate.max_windows,
        documents=run.documents,
        stopped=run.stop.agreed,
    )


def _check_divergence(run: Run, result: StepResult) -> None:
    if run.state.skipped_in_a_row > run.config.train.max_skipped_steps:
        samples = name_samples(run.loader, run.state.step - 1)
        raise DivergedError(
            f"{run.state.skipped_in_a_row} steps in a row had no finite loss or gradient "
            f"(train.max_skipped_steps = {run.config.train.max_skipped_steps}); the last was step "
            f"{run.state.step} with gradient norm {result.grad_norm}, of samples {samples}"
        )


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0
