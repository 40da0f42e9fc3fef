"""The processes of `lehr score`: this one alone, or the ranks of a layout, which lehr starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from data.shards.dataset_json import TokenizerInfo
from launcher.processes.environment import prepare_process
from launcher.processes.local_launcher import run_ranks
from launcher.processes.rank_exit import exit_failed, exit_process
from launcher.processes.rank_info import RankInfo
from launcher.processes.rendezvous import open_store
from launcher.processes.signals import exit_immediately
from launcher.processes.start_method import lehr_command, rank_starter
from launcher.run.config import RunConfig
from launcher.run.machine import read_machine
from launcher.run.saved_run import read_run_config, start_one_process
from launcher.scoring.plan import PlannedFile
from launcher.scoring.score_shards import score_shards
from parallel.config import ParallelConfig
from parallel.layout import Workload, check_layout
from parallel.mesh import make_mesh, start_processes, stop_processes
from settings import UserError
from train.config import TrainConfig

_STOPPING = "stopping; the files that are finished stay"
_STOPPED = "; the same command goes on with the files that are missing"


def check_scoring_layout(runs: Sequence[Path], parallel: ParallelConfig) -> None:
    """Raises UserError if the model of a run cannot be divided in this way, or if there are fewer GPUs than ranks."""
    if 0 < (gpus := read_machine().gpus) < parallel.ranks:
        raise UserError(
            f"--tensor x --pipeline x --data = {parallel.ranks} ranks need a GPU each, and this machine shows {gpus}"
        )
    for run in runs:
        config: RunConfig = read_run_config(run)[1]
        sizes = Workload(
            world_size=parallel.ranks,
            seq_length=config.train.seq_length,
            micro_batch_size=1,
            global_batch_size=parallel.data,
            needs_full_matrices=None,
        )
        check_layout(parallel, config.model, sizes)


def score_in_layout(
    missing: Sequence[PlannedFile],
    tokenizer: TokenizerInfo,
    parallel: ParallelConfig,
    *,
    log_folder: Path,
    arguments: Sequence[str],
) -> int:
    """Makes the missing files in one process or in the ranks of the layout. Returns the exit code.

    `arguments` are those of the command `lehr`, by which a rank is started that cannot be forked.
    """
    if parallel.ranks == 1:
        score_shards(missing, tokenizer, parallel, start_one_process(_timeout_seconds(missing)))
        return 0
    start = rank_starter(
        lambda rank_info: run_rank(rank_info, missing, tokenizer, parallel),
        preload="launcher.scoring.score_shards",
        command=lehr_command(*arguments),
    )
    return run_ranks(start, count=parallel.ranks, log_folder=log_folder, stopping=_STOPPING, stopped=_STOPPED)


def run_rank(
    rank_info: RankInfo, missing: Sequence[PlannedFile], tokenizer: TokenizerInfo, parallel: ParallelConfig
) -> NoReturn:
    """Scores as one rank that lehr has started, and ends the process."""
    exit_immediately(silently=True)
    prepare_process(rank_info)
    timeout_seconds = _timeout_seconds(missing)
    try:
        start_processes(
            rank=rank_info.rank,
            world_size=rank_info.world_size,
            gpu=rank_info.gpu(torch.cuda.device_count()),
            timeout_seconds=timeout_seconds,
            store=open_store(rank_info, timeout_seconds=TrainConfig.model_fields["rendezvous_seconds"].default),
        )
        score_shards(missing, tokenizer, parallel, make_mesh(parallel, timeout_seconds=timeout_seconds))
        stop_processes()
    except Exception as error:
        exit_failed(rank_info, error, sys.stderr)
    exit_process(0, sys.stdout, sys.stderr)


def _timeout_seconds(missing: Sequence[PlannedFile]) -> float:
    """Returns how long a collective may take: what the first run allows."""
    return read_run_config(missing[0].run)[1].train.timeout_seconds
