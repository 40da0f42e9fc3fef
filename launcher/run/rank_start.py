"""The start of a rank of a training run in this process, and the process's end: with an exit code, and a message."""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from launcher.processes.environment import prepare_process, slurm_job
from launcher.processes.failure_reports import FailureRecord
from launcher.processes.hang_report import STACKS_SIGNAL
from launcher.processes.rank_exit import exit_failed, exit_hung, exit_process
from launcher.processes.rank_info import RankInfo
from launcher.processes.rank_logs import log_folder, redirect_output

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from launcher.run.config import RunConfig


def train_as_rank(
    rank_info: RankInfo, config: RunConfig, store: Store | None = None, *, measure_peak: bool = True
) -> NoReturn:
    """Trains as one rank in this process, and ends the process. `store`: where ranks have met, if they have.

    `measure_peak`: whether the peak FLOP/s of the device are found, against which the run's MFU is measured.
    """
    prepare_process(rank_info)
    faulthandler.register(STACKS_SIGNAL, file=2, all_threads=True)
    from launcher.run.rank_main import run_rank  # the import takes seconds; nothing is written before

    job, logs = slurm_job(), rank_logs(config)
    record = None if job is None else FailureRecord(logs, rank_info.rank, job.node)
    with redirect_output(rank_info, logs, job) as console:
        try:
            code = run_rank(
                config,
                rank_info,
                store,
                job=job,
                on_hang=lambda hang, store: exit_hung(rank_info, hang, store, console, record),
                measure_peak=measure_peak,
            )
        except Exception as error:
            exit_failed(rank_info, error, console, store, record)
    exit_process(code, sys.stdout, sys.stderr)


def rank_logs(config: RunConfig) -> Path:
    """Returns the folder of the logs of a run's ranks, of this attempt of its Slurm job if there is one."""
    return log_folder(config.run.path / "logs", slurm_job())
