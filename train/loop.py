"""The loop: read it top to bottom to see what a step does. It knows nothing of the layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from data.batches.held_out import HeldOutLoader
from data.batches.loader import Loader
from model.attention import AttentionMask
from parallel.engines.engine import Engine, StepResult
from parallel.mesh import Mesh
from settings import Settings
from train.batches import LocalBatch, to_local_batch
from train.checkpoint.manager import CheckpointManager
from train.config import CheckpointConfig, EvaluateConfig, TrainConfig
from train.evaluate import evaluate
from train.metrics.logger import MetricsLogger
from train.metrics.step_timer import StepTimer
from train.safety.preemption import Stop
from train.safety.step_checks import StepChecks
from train.safety.watchdog import SAVE_TIME_FACTOR, Watchdog
from train.state import TrainState


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
    documents: Callable[[Tensor], AttentionMask | None]  # document numbers [B, T] -> what attention needs of them
    loader: Loader
    held_out: HeldOutLoader
    schedule: Callable[[int], float]
    checkpoints: CheckpointManager
    metrics: MetricsLogger
    guards: StepChecks
    stop: Stop
    watchdog: Watchdog
    clock: StepTimer
    state: TrainState
    saved_step: int  # of the newest checkpoint


def train(run: Run) -> bool:
    """Train to the last step. True when done, False when asked to stop early; either way the last step is saved."""
    steps = run.config.train.steps
    run.clock.start()
    while True:
        if _evaluation_due(run) and not _evaluate(run):
            break  # asked to stop within it: the next start evaluates anew
        if _due(run.config.checkpoint.every_steps, run.state.step):
            _save(run)
        if run.state.step >= steps:
            break
        run.watchdog.set_phase("step", str(run.state.step + 1))
        batch = _next_batch(run)
        if batch.stop:
            break
        _step(run, batch)
    _save(run)
    run.watchdog.set_phase("save", "being finished", timeout_factor=SAVE_TIME_FACTOR)
    run.checkpoints.wait()
    return run.state.step >= steps and not _evaluation_due(run)


def _next_batch(run: Run) -> LocalBatch:
    return to_local_batch(
        run.loader.batch(run.state.batch),
        run.mesh,
        micro_batch_size=run.config.train.micro_batch_size,
        documents=run.documents,
        stop_asked=run.stop.asked(),
    )


def _step(run: Run, batch: LocalBatch) -> None:
    number = run.state.batch
    lr = run.schedule(run.state.step)
    result = run.engine.train_step(run.watchdog.track_progress(batch.micro_batches), lr=lr)
    run.state = _advanced(run.state, result, batch.tokens_global, run.engine.optimizer_steps)
    seconds = run.clock.step_ended()
    run.stop.step_took(seconds)
    run.metrics.step(run.state, result, lr=lr, tokens=batch.tokens_global, seconds=seconds, batch_hash=batch.hash)
    loss = result.nll / max(batch.tokens_global, 1)
    run.state = run.guards.after_step(run.state, result, loss=loss, batch=number, go_back=lambda: _go_back(run))
    run.checkpoints.check()


def _advanced(state: TrainState, result: StepResult, tokens: int, optimizer_steps: int) -> TrainState:
    changes = {
        "step": state.step + 1,
        "tokens": state.tokens + tokens,
        "optimizer_steps": optimizer_steps,
        "skipped_steps": state.skipped_steps + result.skipped,
        "skipped_in_a_row": state.skipped_in_a_row + 1 if result.skipped else 0,
        "held_out_loss": None,
    }
    return state.model_copy(update=changes)


def _evaluation_due(run: Run) -> bool:
    """At every so many steps and at the last one, unless it is known already, or nothing is held out."""
    step = run.state.step
    due = _due(run.config.evaluate.every_steps, step) or step == run.config.train.steps
    return due and run.state.evaluated_step != step and bool(run.held_out.sources)


def _evaluate(run: Run) -> bool:
    """False where the run was asked to stop on the way."""
    run.watchdog.set_phase("evaluation", f"after step {run.state.step}")
    train = run.config.train
    with run.clock.apart():
        evaluation = evaluate(
            run.engine,
            run.held_out,
            run.mesh,
            micro_batch_size=train.micro_batch_size,
            micro_batches=train.global_batch_size // (train.micro_batch_size * run.mesh.data.size),
            max_windows=run.config.evaluate.max_windows,
            documents=run.documents,
            track_progress=run.watchdog.track_progress,
            stop_asked=run.stop.asked,
        )
        if evaluation is None:
            return False
        run.metrics.evaluation(run.state, evaluation)
    run.state = run.state.evaluated(evaluation.loss)
    if run.saved_step == run.state.step:  # before this evaluation, by a run that was stopped within it
        run.checkpoints.tell_held_out_loss(run.state)
    return True


def _save(run: Run) -> None:
    if run.state.step == run.saved_step:
        return
    run.watchdog.set_phase("save", f"after step {run.state.step}", timeout_factor=SAVE_TIME_FACTOR)
    with run.clock.apart():
        run.checkpoints.save(run.engine, run.state)
    run.saved_step = run.state.step


def _go_back(run: Run) -> TrainState | None:
    """To the last checkpoint, which is loaded into the engine; None where there is none yet."""
    run.watchdog.set_phase("rollback", f"after step {run.state.step}")
    with run.clock.apart():
        state = run.checkpoints.load_latest(run.engine)
    if state is None:
        return None
    run.metrics.go_back(state)
    run.saved_step = state.step
    return state


def _due(every: int, step: int) -> bool:
    return every > 0 and step > 0 and step % every == 0
