"""The build lines of a training run: one rank's part, from config to exit code."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil
import torch.distributed as dist

from data.batches.held_out import HeldOutLoader
from data.batches.loader import Loader
from data.shards.index import shard_tokenizer
from launcher.exit_codes import DONE, STOPPED_EARLY
from launcher.processes.environment import Ranks, job_end
from launcher.processes.rendezvous import open_store
from launcher.processes.signals import defer_signals
from launcher.run.config import RunConfig
from launcher.run.input_hashes import inputs_of
from launcher.run.preflight import model_with_vocabulary
from launcher.run.verify_shards import verify_on_rank_0
from model.config import ModelConfig
from model.size import flops_per_token
from parallel.build import ComputeConfig, build
from parallel.mesh import Mesh, make_mesh, start_processes, stop_processes
from train.batches import name_samples
from train.checkpoint.manager import CheckpointManager
from train.checkpoint.writer_lease import WriterLease
from train.loop import LoopConfig, Run, train
from train.metrics.hardware import memory_bytes, peak_flops
from train.metrics.logger import MetricsLogger
from train.metrics.step_timer import StepTimer
from train.run_folder.events import Events
from train.run_folder.folder import RunFolder, open_run
from train.safety.preemption import Stop
from train.safety.step_checks import StepChecks
from train.safety.watchdog import Hang, Watchdog
from train.state import TrainState

if TYPE_CHECKING:
    from train.metrics.forecast import RunForecast


def run_rank(
    config: RunConfig,
    ranks: Ranks,
    *,
    on_hang: Callable[[Hang, dist.Store], None],  # type: ignore[name-defined]
) -> int:
    """Train as one rank of `ranks.world_size`. Returns the exit code: done, or stopped early with a checkpoint.

    `on_hang` is called from another thread when training no longer moves, and should end the process.
    """
    timeout_seconds = config.train.timeout_seconds
    store = open_store(ranks, timeout_seconds=timeout_seconds)
    if ranks.source in ("torchrun", "srun"):  # else it was done before the ranks were started
        verify_on_rank_0(config, ranks, store)
    start_processes(
        rank=ranks.rank,
        world_size=ranks.world_size,
        local_rank=ranks.local_rank,
        timeout_seconds=timeout_seconds,
        store=store,
    )
    # All ranks are there. From now on a notice to stop waits until the loop listens: it would end what can save soon.
    defer_signals()
    mesh = make_mesh(config.parallel, timeout_seconds=timeout_seconds)
    watchdog = Watchdog(config.train.hang_after_seconds, lambda hang: on_hang(hang, store))
    watchdog.start()
    folder = RunFolder(config.run.path)
    lease = None
    if mesh.rank == 0:
        lease = open_run(config.run.path, config, world_size=mesh.world_size, inputs=inputs_of(config))
    dist.barrier()
    run = build_run(config, mesh, folder, lease=lease, watchdog=watchdog)
    try:
        done = train(run)
    finally:
        run.loader.close()
        run.metrics.close()
        watchdog.close()
    if mesh.rank == 0:
        _say_goodbye(run, folder, done)
    if lease is not None:
        lease.release()
    stop_processes()
    return DONE if done else STOPPED_EARLY


def build_run(
    config: RunConfig, mesh: Mesh, folder: RunFolder, *, lease: WriterLease | None, watchdog: Watchdog
) -> Run:
    """Every part of a run, the newest whole checkpoint loaded if there is one. `claim`: rank 0's, to write with."""
    train_config = config.train
    model = model_with_vocabulary(config)
    stop = Stop(
        limit=_limit(config),
        before_limit_seconds=train_config.stop_before_limit_seconds,
        save_seconds=lambda: checkpoints.save_seconds,
    )
    stop.listen()
    parts = build(
        model,
        config.parallel,
        config.optim,
        mesh,
        compute=ComputeConfig(
            train_config.precision, train_config.attention, train_config.recompute, train_config.compile
        ),
        seq_length=train_config.seq_length,
        micro_batches=train_config.global_batch_size // (train_config.micro_batch_size * mesh.data.size),
        seed=config.run.seed,
    )
    checkpoints = CheckpointManager(
        folder.checkpoints,
        mesh,
        model=model.to_plain(),
        tokenizer=shard_tokenizer(config.data).sha256,
        layout={**config.parallel.to_plain(), "data": mesh.data.size},
        retention=config.checkpoint,
        lease=lease,
    )
    state = checkpoints.load_latest(parts.engine) or TrainState()
    rows = train_config.global_batch_size
    loader = Loader(
        config.data,
        seed=config.run.seed,
        seq_length=train_config.seq_length,
        rows_per_step_global=rows,
        data_rank=mesh.data.rank,
        data_size=mesh.data.size,
        first_step=state.batch,
    )
    return Run(
        config=LoopConfig(train=train_config, evaluate=config.evaluate, checkpoint=config.checkpoint),
        mesh=mesh,
        engine=parts.engine,
        documents=parts.build_attention_mask,
        loader=loader,
        held_out=HeldOutLoader(config.data, seq_length=train_config.seq_length),
        schedule=config.schedule.build(peak_lr=config.optim.lr, total_steps=train_config.steps),
        checkpoints=checkpoints,
        metrics=MetricsLogger(
            folder,
            writes=mesh.rank == 0,
            from_step=state.step,
            evaluated=state.evaluated_step == state.step,
            total_steps=train_config.steps,
            flops_per_step=flops_per_token(model, train_config.seq_length) * rows * train_config.seq_length,
            peak_flops=_peak_flops(config, mesh),
            memory_bytes=lambda: memory_bytes(mesh.device),
            log_every_steps=train_config.log_every_steps,
            forecast=_forecast(config, model) if mesh.rank == 0 else None,
            lease=lease,
        ),
        guards=StepChecks(
            train_config, Events(folder.events, writes=mesh.rank == 0), lambda batch: name_samples(loader, batch)
        ),
        stop=stop,
        watchdog=watchdog,
        clock=StepTimer(mesh.device),
        state=state,
        saved_step=state.step,
    )


def _peak_flops(config: RunConfig, mesh: Mesh) -> float:
    """Of all ranks; measured on the one that writes metrics."""
    return peak_flops(mesh.device, config.train.precision) * mesh.world_size if mesh.rank == 0 else math.nan


def _forecast(config: RunConfig, model: ModelConfig) -> RunForecast | None:
    """Of the held-out loss, where `train.forecast` asks for it."""
    if config.train.forecast is None:
        return None
    from launcher.run.forecast import run_forecast  # brings scipy

    return run_forecast(config, model)


def _limit(config: RunConfig) -> float | None:
    """When this process will be ended from outside: the config's limit or the job's, whichever comes first."""
    limits = [job_end()]
    if config.train.time_limit_seconds is not None:
        limits.append(psutil.Process().create_time() + config.train.time_limit_seconds)
    return min((limit for limit in limits if limit is not None), default=None)


def _say_goodbye(run: Run, folder: RunFolder, done: bool) -> None:
    steps = run.config.train.steps
    if done:
        print(f"done: {run.state.step} steps, {run.state.tokens:,} tokens; everything is in {folder.path}")
        if (verdict := run.metrics.verdict()) is not None:
            print(verdict)
    elif run.state.step:
        print(
            f"stopped at step {run.state.step} of {steps} with a checkpoint; the same command goes on from there",
            file=sys.stderr,
        )
    else:
        print("stopped before the first step; the same command starts anew", file=sys.stderr)
