"""`lehr train`: starts the ranks of a run, or is one of the ranks that torchrun, srun or lehr itself has started."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from launcher.commands.arguments import FromRunOption, OverridesArgument, RunConfigArgument, branch_overrides
from launcher.processes.environment import (
    check_environment,
    hide_gpus,
    one_openmp_thread,
    order_cuda_kernels,
    prepare_process,
    read_rank_info,
)
from launcher.processes.first_parent import first_parent
from launcher.processes.local_launcher import run_ranks
from launcher.processes.rank_exit import exit_failed, exit_without_store
from launcher.processes.rank_info import AddressError, RankInfo
from launcher.processes.signals import exit_immediately
from launcher.processes.start_method import lehr_command, rank_starter
from launcher.run.machine import check_machine, read_machine
from launcher.run.rank_start import rank_logs, train_as_rank
from settings import RunError, UserError, read_yaml
from settings.processes import die_with_parent

if TYPE_CHECKING:
    from pathlib import Path

    from torch._C._distributed_c10d import Store

    from launcher.run.config import RunConfig


def train(
    config: RunConfigArgument,
    overrides: OverridesArgument = None,
    from_run: FromRunOption = None,
) -> None:
    """Train a model, on as many processes as the parallel sizes multiply to, or on those of torchrun or srun.

    Exit codes: 0: the run is done. 2: the config or a file that it names has a mistake. 75: the run stopped early with
    a checkpoint, and the same command continues it. 76: another process has taken the run over. 77: the run diverged.
    128 + the number of a signal: the signal ended the run before there was anything to save. Any other: the run failed,
    and the message names the rank and the reason.
    """
    overrides = [*(overrides or []), *branch_overrides(from_run)]
    try:
        rank_info = read_rank_info()
    except AddressError as error:
        exit_without_store(error)
    if rank_info.has_agent:
        die_with_parent(first_parent())
    if rank_info.parent is None:
        exit_immediately(silently=rank_info.launcher != "none")  # torchrun and srun report the end of their ranks
    if _early_value(config, overrides, "train", "device") == "cpu":
        hide_gpus()
    tensor = _early_value(config, overrides, "parallel", "tensor")
    if isinstance(tensor, int) and tensor > 1:
        order_cuda_kernels()
    if rank_info.launcher == "none":
        check_environment()
        with one_openmp_thread():
            run_config = _load_config(config, overrides, None)
        count = run_config.parallel.ranks
        if count > 1:
            start = rank_starter(
                lambda rank_info: train_as_rank(rank_info, run_config),
                preload="launcher.run.rank_main",
                command=lehr_command("train", str(config), *overrides),
            )
            raise SystemExit(run_ranks(start, count=count, log_folder=rank_logs(run_config)))
        train_as_rank(rank_info, run_config)
    if rank_info.parent is None:
        train_as_rank(rank_info, *_meet(rank_info, config, overrides))
    die_with_parent(rank_info.parent.pid)
    try:
        run_config = _load_config(config, overrides, rank_info)
    except UserError as error:
        exit_failed(rank_info, error, sys.stderr)
    train_as_rank(rank_info, run_config)


def _early_value(path: Path, overrides: list[str], section: str, key: str) -> object:
    """Returns a value of the config that CUDA must know before it starts; None if it is not set or cannot be read yet.

    Of a config that is a pipe, which cannot be read twice, only the overrides count. Mistakes are reported later.
    """
    with contextlib.suppress(UserError):
        plain = read_yaml(path if path.is_file() else None, overrides).get(section)
        return plain.get(key) if isinstance(plain, dict) else None
    return None


def _meet(rank_info: RankInfo, path: Path, overrides: list[str]) -> tuple[RunConfig, Store]:
    """Reads the config as a rank of torchrun or srun, and meets the others. Returns when all of them agree to train.

    A mistake of any rank ends this process, as it does all others.
    """
    found: dict[str, Any] | UserError | RunError
    try:
        check_environment()
        run_config = _load_config(path, overrides, rank_info)
        from launcher.run.fingerprint import fingerprint_of

        found, limit_seconds = fingerprint_of(run_config, rank_info), run_config.train.rendezvous_seconds
    except (UserError, RunError) as error:
        from train.config import TrainConfig

        found, limit_seconds = error, TrainConfig.model_fields["rendezvous_seconds"].default
    from launcher.processes.meeting import meet
    from launcher.processes.rendezvous import open_store
    from launcher.run.stages import training_data
    from launcher.run.verify_shards import SharedVerification

    try:
        store = open_store(rank_info, timeout_seconds=limit_seconds)
    except AddressError as error:
        exit_without_store(error)
    store = meet(
        store,
        rank_info,
        found,
        limit_seconds=limit_seconds,
        last_check=lambda: SharedVerification(
            training_data(run_config), rank_info
        ),  # it comes last because it takes longest
    )
    return run_config, store


def _load_config(path: Path, overrides: list[str], rank_info: RankInfo | None) -> RunConfig:
    """Reads the config and checks it with all files that it names.

    `rank_info`: None if no rank is started yet. The imports bring torch, which the command line does without before.
    """
    if rank_info is not None:
        prepare_process(rank_info)
    from launcher.run.config import load_run_config
    from launcher.run.stages import training_data
    from launcher.run.start_checks import check_start
    from launcher.run.verify_shards import verify_run_shards

    run_config = load_run_config(path, overrides)
    if rank_info is not None and rank_info.parent is not None:
        return run_config  # the parent has checked it
    machine = read_machine()
    check_machine(run_config, machine, rank_info)
    if rank_info is not None and rank_info.local_rank:
        return run_config  # the first rank of the node checks what is the same for all: every look at a file counts
    found = check_start(run_config, machine, rank_info)
    if rank_info is None or rank_info.rank == 0:
        for note in found.notes:
            print(note, flush=True)
        for warning in found.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    if rank_info is None:  # it comes last because it takes longest
        verify_run_shards(training_data(run_config))
    return run_config
