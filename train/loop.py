"""The training loop: read `train` top to bottom to see what a step does. It knows nothing of the layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from data.batches.held_out import HeldOutLoader
from data.batches.loader import Loader
from model.attention import AttentionMask
from parallel.engines.engine import Engine
from parallel.mesh import Mesh
from parallel.spans import span
from settings import Settings
from train.checkpoint.manager import CheckpointManager
from train.config import CheckpointConfig, EvaluateConfig, TrainConfig
from train.evaluate import evaluate
from train.garbage_collection import GarbageCollection
from train.metrics.logger import MetricsLogger
from train.metrics.step_timer import StepTimer
from train.metrics.time_ledger import TimeLedger
from train.micro_batches import MicroBatches
from train.profiling.step_profiler import StepProfiler
from train.safety.long_step import LongStep, StepDroppedError
from train.safety.slow_ranks import SlowRanks
from train.safety.step_checks import StepChecks
from train.safety.stop_listener import StopListener
from train.safety.watchdog import SAVE_TIME_FACTOR, Watchdog
from train.safety.weight_comparison import compare_weights
from train.state import TrainState
from train.step_agreement import StepAgreement, agree_on_step
from train.step_batches import DeviceBatch, StepBatches


class LoopConfig(Settings):
    """The sections that the loop reads."""

    train: TrainConfig
    evaluate: EvaluateConfig
    checkpoint: CheckpointConfig


@dataclass
class Run:
    """All parts of a run, built; `state` changes with every step."""

    config: LoopConfig
    mesh: Mesh
    engine: Engine
    make_mask: Callable[[Tensor], AttentionMask | None]  # document numbers [B, T] -> the attention mask
    loader: Loader
    batches: StepBatches  # of the loader, on the device
    held_out: HeldOutLoader
    schedule: Callable[[int], float]  # 0-based step -> lr
    checkpoints: CheckpointManager
    metrics: MetricsLogger
    step_checks: StepChecks
    slow_ranks: SlowRanks
    stop_listener: StopListener
    long_step: LongStep
    watchdog: Watchdog
    step_timer: StepTimer
    time_ledger: TimeLedger
    profiler: StepProfiler
    garbage: GarbageCollection
    state: TrainState
    saved_step: int  # of the newest checkpoint
    joints: frozenset[int] = frozenset()  # steps after which the held-out loss is measured in any case


def train(run: Run) -> bool:
    """Trains to the last step, or until a rank is requested to stop; saves the last complete step either way.

    Returns True if the last step is taken (`train.steps`, or `train.stop_at_step`), False if it was stopped early.
    """
    last_step = run.config.train.last_step
    run.step_timer.start()
    run.time_ledger.start()
    stopped = not _evaluate_if_due(run)  # an earlier start can have been stopped within this evaluation
    while not stopped and run.state.step < last_step:
        number = run.state.step + 1
        run.watchdog.set_phase("step", str(number))
        run.profiler.begin_step(number)
        with span("data"), run.slow_ranks.reading_data():
            batch = run.batches.take(run.state.batch)
        agreement = agree_on_step(batch.rows, run.mesh, stop_requested=run.stop_listener.stop_requested())
        if agreement.stop:
            break
        try:
            _take_step(run, batch, agreement, lr=run.schedule(run.state.step))
        except StepDroppedError:
            break
        if _is_due(run.config.train.compare_weights_every_steps, run.state.step):
            compare_weights(run.engine, run.mesh, step=run.state.step)
        stopped = not _evaluate_if_due(run)
        if not stopped and _is_due(run.config.checkpoint.every_steps, run.state.step):
            _save(run)
        run.profiler.end_step(run.watchdog, run.step_timer)
        run.garbage.end_step(run.state.step)
    run.step_checks.finish(run.state)
    _save(run)
    run.watchdog.set_phase("save", "being finished", timeout_factor=SAVE_TIME_FACTOR)
    run.checkpoints.wait()
    return run.state.step >= last_step and not _is_evaluation_due(run)


def _take_step(run: Run, batch: DeviceBatch, agreement: StepAgreement, *, lr: float) -> None:
    """Takes one optimizer step on a batch, records it and checks it.

    The engine goes forward and backward over the micro-batches (parallel/schedule.py), reduces the gradients, clips
    them to `optim.clip_grad_norm` (parallel/engines/gradient_clipping.py), and updates the weights.
    Raises StepDroppedError if the run is requested to stop within a long step.
    """
    batch_number = run.state.batch
    micro_batches = MicroBatches(
        batch,
        size=run.config.train.micro_batch_size,
        tokens_global=agreement.tokens_global,
        make_mask=run.make_mask,
        when_last_taken=lambda: run.batches.prepare(batch_number + 1),
    )
    tracked = run.long_step.track(run.watchdog.track_progress(micro_batches), step=run.state.step + 1)
    result = run.engine.train_step(tracked, lr=lr)
    run.state = run.state.after_step(
        tokens=agreement.tokens_global,
        skipped=result.skipped,
        optimizer_steps=run.engine.optimizer_steps,
        zeroed_weights=result.zeroed_weights,
    )
    seconds = run.step_timer.end_step()
    run.stop_listener.note_step(seconds)
    run.time_ledger.step(seconds)
    rank_seconds = run.slow_ranks.end_step(run.state.step)
    # Recorded before it is checked: what ends the run or rolls it back stands in metrics.jsonl.
    run.metrics.step(
        run.state,
        result,
        lr=lr,
        tokens=agreement.tokens_global,
        seconds=seconds,
        batch_hash=agreement.batch_hash,
        rank_seconds=rank_seconds,
    )
    run.state = run.step_checks.after_step(
        run.state,
        result,
        loss=result.nll / agreement.tokens_global if agreement.tokens_global else None,
        batch=batch_number,
        load_checkpoint=lambda: _load_last_checkpoint(run),
    )
    run.checkpoints.check()


def _evaluate_if_due(run: Run) -> bool:
    """Evaluates the held-out loss if it is due. Returns False if the run was requested to stop meanwhile."""
    if not _is_evaluation_due(run):
        return True
    run.watchdog.set_phase("evaluation", f"after step {run.state.step}")
    train = run.config.train
    with span("evaluation"), run.time_ledger.spent_on("evaluating"), run.step_timer.excluded():
        evaluation = evaluate(
            run.engine,
            run.held_out,
            run.mesh,
            micro_batch_size=train.micro_batch_size,
            micro_batches=train.global_batch_size // (train.micro_batch_size * run.mesh.data.size),
            make_mask=run.make_mask,
            track_progress=run.watchdog.track_progress,
            stop_requested=run.stop_listener.stop_requested,
        )
        if evaluation is None:
            return False
        run.state = run.state.with_held_out_loss(evaluation.loss, on=run.held_out.identity())
        run.metrics.evaluation(run.state, evaluation)
    if run.saved_step == run.state.step:  # saved before this evaluation, by a start that was stopped within it
        run.checkpoints.add_held_out_loss(run.state)
    return True


def _is_evaluation_due(run: Run) -> bool:
    """Returns whether it is time: every `evaluate.every_steps` steps, at joints and at the end, if it is not known."""
    step = run.state.step
    due = _is_due(run.config.evaluate.every_steps, step) or step in run.joints or step == run.config.train.steps
    return due and run.state.evaluated_step != step and bool(run.held_out.sources)


def _save(run: Run) -> None:
    if run.state.step == run.saved_step:
        return
    run.watchdog.set_phase("save", f"after step {run.state.step}", timeout_factor=SAVE_TIME_FACTOR)
    with span("save"), run.time_ledger.spent_on("saving"), run.step_timer.excluded():
        if run.config.train.compare_weights_every_steps:  # a checkpoint never has weights on which the ranks disagree
            compare_weights(run.engine, run.mesh, step=run.state.step)
        run.checkpoints.save(run.engine, run.state)
    run.time_ledger.saved(run.state.step)
    run.saved_step = run.state.step


def _load_last_checkpoint(run: Run) -> TrainState | None:
    """Loads the last checkpoint into the engine and returns its state; None if there is no checkpoint yet."""
    run.watchdog.set_phase("rollback", f"after step {run.state.step}")
    with run.step_timer.excluded():
        state = run.checkpoints.load_latest(run.engine)
    if state is None:
        return None
    run.metrics.rewind(state)
    run.saved_step = state.step
    return state


def _is_due(every: int, step: int) -> bool:
    return every > 0 and step > 0 and step % every == 0
