"""Builds the parts of a training run on one rank: engine, checkpoints, loader, metrics and what keeps it safe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import psutil
from torch._C._distributed_c10d import Store

from data.batches.loader import Loader
from data.shards.index import shard_tokenizer
from launcher.processes.environment import cache_folder, job_end_time
from launcher.run.branch_origin import agree_on_origin
from launcher.run.config import RunConfig
from launcher.run.estimate import estimate_lines, estimate_step, step_warnings
from launcher.run.held_out_sequences import held_out_loader
from launcher.run.input_hashes import register_hash
from launcher.run.preflight import model_with_vocabulary
from launcher.run.run_parts import parts_of
from launcher.run.stages import run_schedule, training_data
from model.config import ModelConfig
from model.size import flops_per_token, parameters
from parallel.build import ComputeConfig, TrainableModel, build
from parallel.mesh import Mesh
from parallel.run_plan import run_plan
from train.checkpoint.manager import CheckpointManager
from train.checkpoint.writer_lease import WriterLease
from train.garbage_collection import GarbageCollection
from train.loop import LoopConfig, Run
from train.metrics.continual import ContinualMetrics
from train.metrics.hardware import Peak, find_peak, memory_bytes, reset_peak_memory
from train.metrics.logger import MetricsLogger
from train.metrics.sparse_cost import SparseCost
from train.metrics.step_timer import StepTimer
from train.metrics.time_ledger import TimeLedger
from train.profiling.step_profiler import StepProfiler
from train.run_folder.beginning import begin
from train.run_folder.events import Events
from train.run_folder.folder import RunFolder
from train.run_folder.start_record import recorded_origin
from train.safety.long_step import LongStep
from train.safety.sample_numbers import sample_numbers
from train.safety.slow_ranks import SlowRanks
from train.safety.step_checks import StepChecks
from train.safety.stop_listener import StopListener
from train.safety.watchdog import Watchdog
from train.state import TrainState
from train.step_batches import StepBatches

if TYPE_CHECKING:
    from train.metrics.forecast import RunForecast


def build_run(
    config: RunConfig,
    mesh: Mesh,
    folder: RunFolder,
    *,
    compute: ComputeConfig,
    lease: WriterLease | None,
    watchdog: Watchdog,
    store: Store,
    measure_peak: bool = True,
) -> Run:
    """Builds every part of a run, and loads the newest complete checkpoint if there is one.

    `compute`: how all ranks compute, without `auto`. `lease`: rank 0's right to write into the run folder; None on the
    other ranks. `store`: the store of all ranks. Without `measure_peak` there is no MFU: on a CPU whose peak FLOP/s
    were never measured, the measurement takes seconds.
    """
    model = model_with_vocabulary(config)
    peak_flops = _announce_step(config, model, mesh, measure_peak=measure_peak) if mesh.rank == 0 else None
    checkpoints = _build_checkpoints(config, model, mesh, folder, lease)
    stop_listener = _build_stop_listener(config, checkpoints, asks_slurm=mesh.rank == 0)
    parts = _build_engine(config, model, mesh, compute)
    held_out = held_out_loader(config)
    run_parts = parts_of(config, agree_on_origin(lambda: recorded_origin(folder.path)))
    joints = frozenset(part.first_step for part in run_parts)
    state = _load_state(config, checkpoints, parts, folder, lease)
    if state.step in joints:
        state = state.with_evaluation_due(on=held_out.identity())
    reset_peak_memory(mesh.device)
    loader = _build_loader(config, mesh, state)
    metrics = _build_metrics(
        config,
        model,
        mesh,
        folder,
        state,
        lease,
        peak_flops,
        continual=ContinualMetrics(run_parts) if run_parts and mesh.rank == 0 else None,
        held_out_on=held_out.identity(),
    )
    events = Events(folder.events, writes=mesh.rank == 0)
    return Run(
        config=LoopConfig(train=config.train, evaluate=config.evaluate, checkpoint=config.checkpoint),
        mesh=mesh,
        engine=parts.engine,
        make_mask=parts.build_attention_mask,
        loader=loader,
        batches=StepBatches(loader, mesh.device),
        held_out=held_out,
        schedule=run_schedule(config),
        checkpoints=checkpoints,
        metrics=metrics,
        step_checks=StepChecks(config.train, events, lambda batch: sample_numbers(loader, batch)),
        slow_ranks=SlowRanks(parts.compute_timer, mesh, events),
        stop_listener=stop_listener,
        long_step=LongStep(
            store,
            stop_listener,
            mesh=mesh,
            can_drop=config.parallel.can_drop_step,
            notice=metrics.notice,
        ),
        watchdog=watchdog,
        step_timer=StepTimer(mesh.device),
        time_ledger=TimeLedger(
            folder.times, writes=lease is not None, began=psutil.Process().create_time(), lease=lease
        ),
        profiler=StepProfiler(config.train.profile, folder.profile, mesh, steps_taken=state.step),
        garbage=GarbageCollection(config.train.collect_garbage_every_steps),
        state=state,
        saved_step=state.step,
        joints=joints,
    )


def _announce_step(config: RunConfig, model: ModelConfig, mesh: Mesh, *, measure_peak: bool) -> float | None:
    """Prints the estimate of a step, and returns the peak FLOP/s of all ranks, or None if it is not known.

    One rank measures for all, before its own threads prepare batches.
    """
    peak = Peak(None, "the peak FLOP/s are not measured")
    if measure_peak:
        peak = find_peak(mesh.device, config.train.precision, cache_folder())
    step = estimate_step(config, model, world_size=mesh.world_size)
    for line in estimate_lines(step, peak, world_size=mesh.world_size):
        print(line)
    plan = run_plan(model, seq_length=config.train.seq_length, steps=config.train.steps)
    for transform in config.optim.transforms:
        print(*transform.notes(plan), sep="\n")
    for warning in step_warnings(config, step, peak, world_size=mesh.world_size):
        print(f"warning: {warning}", file=sys.stderr)
    return None if peak.flops is None else peak.flops * mesh.world_size


def _build_checkpoints(
    config: RunConfig, model: ModelConfig, mesh: Mesh, folder: RunFolder, lease: WriterLease | None
) -> CheckpointManager:
    return CheckpointManager(
        folder.checkpoints,
        mesh,
        model=model.to_plain(),
        tokenizer=shard_tokenizer(training_data(config)).sha256,
        registered_forecast=register_hash(config.train.forecast),
        layout={**config.parallel.to_plain(), "data": mesh.data.size},
        retention=config.checkpoint,
        lease=lease,
    )


def _build_stop_listener(config: RunConfig, checkpoints: CheckpointManager, *, asks_slurm: bool) -> StopListener:
    """Builds the listener to stop signals and the time limit. It takes over the deferred signals at once.

    `asks_slurm`: for the end of the job, where no variable has it.
    """
    stop_listener = StopListener(
        limit=_end_time(config, asks_slurm=asks_slurm),
        before_limit_seconds=config.train.stop_before_limit_seconds,
        save_seconds=lambda: checkpoints.save_seconds,
    )
    stop_listener.listen()
    return stop_listener


def _build_engine(config: RunConfig, model: ModelConfig, mesh: Mesh, compute: ComputeConfig) -> TrainableModel:
    train = config.train
    return build(
        model,
        config.parallel,
        config.optim,
        mesh,
        compute=compute,
        seq_length=train.seq_length,
        micro_batches=train.global_batch_size // (train.micro_batch_size * mesh.data.size),
        seed=config.run.seed,
        total_steps=train.steps,
    )


def _load_state(
    config: RunConfig,
    checkpoints: CheckpointManager,
    parts: TrainableModel,
    folder: RunFolder,
    lease: WriterLease | None,
) -> TrainState:
    """Loads the newest complete checkpoint, or draws the weights. Says at which step the run begins, and why."""
    state = load_or_draw(checkpoints, parts)
    if lease is not None:
        lease.check()
        line, warnings = begin(folder, state, total_steps=config.train.steps)
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr, flush=True)
        print(line, flush=True)
    return state or TrainState()


def load_or_draw(checkpoints: CheckpointManager, parts: TrainableModel) -> TrainState | None:
    """Loads the newest complete checkpoint. If there is none yet, draws the initial weights and returns None."""
    state = checkpoints.load_latest(parts.engine)
    if state is None:
        parts.draw_weights()
    return state


def _build_loader(config: RunConfig, mesh: Mesh, state: TrainState) -> Loader:
    return Loader(
        training_data(config),
        seed=config.run.seed,
        seq_length=config.train.seq_length,
        rows_per_step_global=config.train.global_batch_size,
        data_rank=mesh.data.rank,
        data_size=mesh.data.size,
        first_step=state.batch,
    )


def _build_metrics(
    config: RunConfig,
    model: ModelConfig,
    mesh: Mesh,
    folder: RunFolder,
    state: TrainState,
    lease: WriterLease | None,
    peak_flops: float | None,
    *,
    continual: ContinualMetrics | None,
    held_out_on: dict[str, Any],
) -> MetricsLogger:
    train = config.train
    writes = mesh.rank == 0
    return MetricsLogger(
        folder,
        writes=writes,
        state=state,
        total_steps=train.last_step,
        flops_per_step=estimate_step(config, model, world_size=mesh.world_size).flops if writes else 0.0,
        peak_flops=peak_flops,
        memory_bytes=lambda: memory_bytes(mesh.device),
        log_every_steps=train.log_every_steps,
        forecast=_build_forecast(config, model) if writes else None,
        sparse_cost=_build_sparse_cost(config, model) if config.optim.transforms else None,
        continual=continual,
        held_out_on=held_out_on,
        lease=lease,
    )


def _build_sparse_cost(config: RunConfig, model: ModelConfig) -> SparseCost:
    train = config.train
    tokens = train.global_batch_size * train.seq_length
    return SparseCost(
        parameters=parameters(model, seq_length=train.seq_length),
        flops_per_step=lambda zeroed: tokens * flops_per_token(model, train.seq_length, zeroed_weights=zeroed),
    )


def _build_forecast(config: RunConfig, model: ModelConfig) -> RunForecast | None:
    """Builds the forecast of the held-out loss, or None if `train.forecast` is not set."""
    if config.train.forecast is None:
        return None
    from launcher.run.forecast import run_forecast  # imports scipy

    return run_forecast(config, model)


def _end_time(config: RunConfig, *, asks_slurm: bool) -> float | None:
    """Returns when this process will be ended from outside, by the config's limit or the job's, whichever is first."""
    limits = [job_end_time(asks_slurm=asks_slurm)]
    if config.train.time_limit_seconds is not None:
        limits.append(psutil.Process().create_time() + config.train.time_limit_seconds)
    return min((limit for limit in limits if limit is not None), default=None)
