"""One rank of a training run, from the config to the exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch._C._distributed_c10d import Store

from launcher.exit_codes import DONE, STOPPED_EARLY
from launcher.processes.environment import fix_cublas_workspace
from launcher.processes.rank_info import RankInfo
from launcher.processes.rendezvous import open_store
from launcher.processes.signals import defer_signals, exit_if_stuck
from launcher.processes.slurm import SlurmJob
from launcher.run.branch_origin import agree_on_origin, branch_origin
from launcher.run.build_run import build_run
from launcher.run.config import RunConfig
from launcher.run.input_hashes import inputs_of
from launcher.run.out_of_memory import explain_out_of_memory, is_out_of_memory
from launcher.run.schedule_phases import Phases, phases_of, recorded_phases, schedule_with, with_phases
from launcher.run.stages import draw_plan, replayed_runs
from parallel.agree import agree, from_first_rank
from parallel.build import ComputeConfig
from parallel.compiled_check import RunShapes
from parallel.compute_choice import agree_on_compute, choices_of
from parallel.determinism import use_deterministic_algorithms
from parallel.group_check import check_groups
from parallel.mesh import Mesh, make_mesh, start_processes, stop_processes
from settings import RunError, parse
from train.checkpoint.writer_lease import WriterLease
from train.config import FIRST_TIME_FACTOR
from train.loop import Run, train
from train.run_folder.branch_record import Origin
from train.run_folder.folder import RunFolder
from train.run_folder.open_run import open_run
from train.run_folder.recorded_schedule import SchedulePhases
from train.run_folder.start_record import Start, recorded_choices
from train.safety.watchdog import Hang, Watchdog


def run_rank(
    config: RunConfig,
    rank_info: RankInfo,
    store: Store | None,
    *,
    on_hang: Callable[[Hang, Store], None],
    job: SlurmJob | None = None,
    measure_peak: bool = True,
) -> int:
    """Trains as one of `rank_info.world_size` ranks. Returns the exit code: done, or stopped early with a checkpoint.

    `store`: the one at which the ranks have met; None if it is not open yet. `on_hang` is called from another thread
    when training makes no progress, and should end the process. `job` is recorded with the start. `measure_peak`: see
    `build_run`.
    """
    if config.train.deterministic:
        fix_cublas_workspace()
        use_deterministic_algorithms()
    # A stop signal waits from here on, until the loop can save: now it would end a rank that the others wait for.
    defer_signals()
    with exit_if_stuck():
        met = store or open_store(rank_info, timeout_seconds=config.train.rendezvous_seconds)
        mesh, group_record = _connect(config, rank_info, met, lambda hang: on_hang(hang, met))
    watchdog = Watchdog(config.train.hang_after_seconds, lambda hang: on_hang(hang, met))
    watchdog.start()
    folder = RunFolder(config.run.path)
    origin = agree_on_origin(lambda: branch_origin(config))
    phases = _agree_on_phases(config, origin)
    run: Run | None = None
    try:
        compute = _agree_on_compute(config, mesh, origin)
        start = Start(
            world_size=mesh.world_size,
            schedules=phases,
            origin=origin,
            choices=choices_of(compute),
            groups=group_record,
            job=None if job is None else job.to_plain(),
        )
        lease = _open_run(config, mesh, start)
        config = with_phases(config, phases)
        run = build_run(
            config,
            mesh,
            folder,
            compute=compute,
            lease=lease,
            watchdog=watchdog,
            store=met,
            measure_peak=measure_peak,
        )
        done = _train(run)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        held = None if run is None else run.engine.held_bytes()
        raise RunError(explain_out_of_memory(error, config, mesh, held=held, position=watchdog.position)) from error
    if mesh.rank == 0:
        _print_outcome(run, folder, done)
    if lease is not None:
        lease.release()
    stop_processes()
    return DONE if done else STOPPED_EARLY


def _train(run: Run) -> bool:
    """Trains, and closes all parts of the run. Returns whether the run is complete."""
    try:
        return train(run)
    finally:
        run.profiler.close()
        run.loader.close()
        run.metrics.close()
        run.watchdog.close()
        run.garbage.close()


def _connect(
    config: RunConfig, rank_info: RankInfo, store: Store, on_hang: Callable[[Hang], None]
) -> tuple[Mesh, dict[str, Any]]:
    """Makes the process groups and tries each; returns what the run records of them too.

    Every rank waits here for others, for `train.rendezvous_seconds` at most.
    """
    watchdog = Watchdog(config.train.rendezvous_seconds / FIRST_TIME_FACTOR, on_hang)
    watchdog.start()
    watchdog.set_phase("making the process groups")
    start_processes(
        rank=rank_info.rank,
        world_size=rank_info.world_size,
        gpu=rank_info.gpu(torch.cuda.device_count()),
        timeout_seconds=config.train.timeout_seconds,
        store=store,
    )
    mesh = make_mesh(
        config.parallel,
        timeout_seconds=config.train.timeout_seconds,
        tied_embeddings=config.model.tied_embeddings,
    )
    watchdog.set_phase("trying the process groups")
    check = check_groups(mesh)
    watchdog.close()
    if mesh.rank == 0:
        for warning in check.warnings():
            print(f"warning: {warning}", file=sys.stderr, flush=True)
    return mesh, check.record()


def _agree_on_compute(config: RunConfig, mesh: Mesh, origin: Origin | None) -> ComputeConfig:
    """Returns how all ranks compute. What is `auto` stays as it is when the run goes on."""
    train = config.train
    recorded: Mapping[str, Any] = {}
    if mesh.rank == 0:
        recorded = recorded_choices(config.run.path) if origin is None else origin.choices
    compute, warnings = agree_on_compute(
        ComputeConfig(train.precision, train.attention, train.recompute, train.compile, train.cross_entropy),
        RunShapes(config.model, config.parallel, train.seq_length, train.micro_batch_size),
        mesh,
        recorded=recorded,
    )
    for warning in warnings if mesh.rank == 0 else ():
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    return compute


def _agree_on_phases(config: RunConfig, origin: Origin | None) -> Phases:
    """Returns the phases of the schedules, on all ranks: those on record, but for what the config states."""

    def on_first_rank() -> dict[str, Any]:
        found = phases_of(with_phases(config, recorded_phases(config, origin)))
        return {key: phases.to_plain() for key, phases in found.items()}

    read = from_first_rank(on_first_rank)
    return {key: parse(SchedulePhases, plain, source="run.json") for key, plain in read.items()}


def _open_run(config: RunConfig, mesh: Mesh, start: Start) -> WriterLease | None:
    """Opens the run folder on rank 0, and returns its writer lease there. Raises rank 0's error on all ranks.

    `start` lacks what rank 0 alone reads: the hashes of the data and what is drawn of it.
    """
    leases = []

    def open_on_rank_0() -> None:
        if mesh.rank == 0:
            recorded = recorded_phases(config, start.origin)
            complete = replace(start, inputs=inputs_of(config), draws=draw_plan(config), replayed=replayed_runs(config))
            lease = open_run(config.run.path, config, complete, schedule_of=lambda each: schedule_with(recorded, each))
            leases.append(lease)

    agree(open_on_rank_0)
    return leases[0] if leases else None


def _print_outcome(run: Run, folder: RunFolder, done: bool) -> None:
    steps = run.config.train.steps
    if done and run.state.step < steps:
        print(f"stopped at step {run.state.step} of {steps} with a checkpoint, as train.stop_at_step says")
    elif done:
        print(f"done: {run.state.step} steps, {run.state.tokens:,} tokens; everything is in {folder.path}")
        for line in run.metrics.closing_lines(run.state):
            print(line)
    elif run.state.step:
        print(
            f"stopped at step {run.state.step} of {steps} with a checkpoint; the same command goes on from there",
            file=sys.stderr,
        )
    else:
        print("stopped before the first step was complete; the same command starts anew", file=sys.stderr)
