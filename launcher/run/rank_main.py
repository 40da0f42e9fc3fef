"""One rank of a training run, from the config to the exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch.distributed as dist

from launcher.exit_codes import DONE, STOPPED_EARLY
from launcher.processes.rank_info import RankInfo
from launcher.processes.rendezvous import open_store
from launcher.processes.signals import defer_signals
from launcher.run.build_run import build_run
from launcher.run.config import RunConfig
from launcher.run.input_hashes import inputs_of
from launcher.run.verify_shards import verify_on_rank_0
from parallel.mesh import make_mesh, start_processes, stop_processes
from train.loop import Run, train
from train.run_folder.folder import RunFolder
from train.run_folder.open_run import open_run
from train.safety.watchdog import Hang, Watchdog


def run_rank(
    config: RunConfig,
    rank_info: RankInfo,
    *,
    on_hang: Callable[[Hang, dist.Store], None],  # type: ignore[name-defined]
) -> int:
    """Trains as one of `rank_info.world_size` ranks. Returns the exit code: done, or stopped early with a checkpoint.

    `on_hang` is called from another thread when training makes no progress, and should end the process.
    """
    store = _connect(config, rank_info)
    # A stop signal waits from here on, until the loop can save: before, it would end a rank that the others wait for.
    defer_signals()
    mesh = make_mesh(config.parallel, timeout_seconds=config.train.timeout_seconds)
    watchdog = Watchdog(config.train.hang_after_seconds, lambda hang: on_hang(hang, store))
    watchdog.start()
    folder = RunFolder(config.run.path)
    lease = None
    if mesh.rank == 0:
        lease = open_run(config.run.path, config, world_size=mesh.world_size, inputs=inputs_of(config))
    dist.barrier()
    run = build_run(config, mesh, folder, lease=lease, watchdog=watchdog, store=store)
    try:
        done = train(run)
    finally:
        run.profiler.close()
        run.loader.close()
        run.metrics.close()
        watchdog.close()
    if mesh.rank == 0:
        _print_outcome(run, folder, done)
    if lease is not None:
        lease.release()
    stop_processes()
    return DONE if done else STOPPED_EARLY


def _connect(config: RunConfig, rank_info: RankInfo) -> dist.Store:  # type: ignore[name-defined]
    """Connects this rank with the others and starts the process group. Returns the store at which they met."""
    timeout_seconds = config.train.timeout_seconds
    store = open_store(rank_info, timeout_seconds=timeout_seconds)
    if rank_info.launcher in ("torchrun", "srun"):  # else it was done before the ranks were started
        verify_on_rank_0(config, rank_info, store)
    start_processes(
        rank=rank_info.rank,
        world_size=rank_info.world_size,
        local_rank=rank_info.local_rank,
        timeout_seconds=timeout_seconds,
        store=store,
    )
    return store


def _print_outcome(run: Run, folder: RunFolder, done: bool) -> None:
    steps = run.config.train.steps
    if done:
        print(f"done: {run.state.step} steps, {run.state.tokens:,} tokens; everything is in {folder.path}")
        if (line := run.metrics.closing_line()) is not None:
            print(line)
    elif run.state.step:
        print(
            f"stopped at step {run.state.step} of {steps} with a checkpoint; the same command goes on from there",
            file=sys.stderr,
        )
    else:
        print("stopped before the first step was complete; the same command starts anew", file=sys.stderr)
