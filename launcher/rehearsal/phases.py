"""The phases of a rehearsal: training in the layout of the run, a resume in another layout, an evaluation.

Each phase does what a user's command does: `lehr train` of the config in the folder of the rehearsal, and `lehr eval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from launcher.processes.local_launcher import run_ranks
from launcher.processes.start_method import lehr_command, rank_starter
from launcher.run.config import RunConfig
from launcher.run.held_out_sequences import held_out_loader
from launcher.run.rank_start import rank_logs, train_as_rank
from launcher.run.saved_run import open_saved_run
from parallel.mesh import stop_processes
from settings import RunError, to_yaml
from settings.files import output_of_user, write_text
from train.evaluate import evaluate
from train.held_out_loss import HELD_OUT_LOSS
from train.metrics.jsonl import read_metrics
from train.run_folder.folder import RunFolder

# Relative; what any two layouts agree in over the first steps, in float32.
_LOSS_TOLERANCE, _GRAD_NORM_TOLERANCE = 1e-5, 1e-4


@dataclass(frozen=True)
class Trained:
    """The last step of a phase of training."""

    step: int
    losses: list[float]  # of each step up to it; a branch has those of its parent too
    grad_norm: float  # NaN, as a loss, if it was not finite
    held_out_loss: float | None  # None if the shards hold nothing out


def train(config: RunConfig) -> int:
    """Trains a config of a rehearsal on ranks of this machine, and returns the exit code of `lehr train`.

    The config lies beside the run folder then, so that `lehr train` can do the same again.
    """
    path = config.run.folder / f"{config.run.name}.yaml"
    with output_of_user(path):
        write_text(path, to_yaml(config))
    start = rank_starter(
        lambda rank_info: train_as_rank(rank_info, config, measure_peak=False),
        preload="launcher.run.rank_main",
        command=lehr_command("train", str(path)),
    )
    return run_ranks(
        start,
        count=config.parallel.ranks,
        log_folder=rank_logs(config),
        stopping="stopping the rehearsal; Ctrl-C again ends at once",
        stopped="",
    )


def read_trained(config: RunConfig) -> Trained:
    """Returns what a phase of training has recorded."""
    lines = read_metrics(RunFolder(config.run.path).metrics)
    steps = [line for line in lines if "loss" in line]
    held_out: list[dict[str, Any]] = [line for line in lines if HELD_OUT_LOSS in line]
    return Trained(
        step=steps[-1]["step"],
        losses=[line["loss"] for line in steps],
        grad_norm=steps[-1]["grad_norm"],
        held_out_loss=held_out[-1][HELD_OUT_LOSS] if held_out else None,
    )


def check_agreement(first: Trained, second: Trained) -> None:
    """Checks that the last step was the same in both layouts. Raises RunError with every value that differs."""
    pairs = {
        "loss": (first.losses[-1], second.losses[-1], _LOSS_TOLERANCE),
        "gradient norm": (first.grad_norm, second.grad_norm, _GRAD_NORM_TOLERANCE),
        "held-out loss": (first.held_out_loss, second.held_out_loss, _LOSS_TOLERANCE),
    }
    differing = [
        f"{name} {here} in the layout of the config and {there} in the second layout"
        for name, (here, there, tolerance) in pairs.items()
        if not _agree(here, there, tolerance)
    ]
    if differing:
        raise RunError(
            f"step {first.step} differs between the two layouts, which must give the same run: {'; '.join(differing)}. "
            "This is a fault of lehr and not of the config; please report it with the config"
        )


def check_evaluation(config: RunConfig, trained: Trained) -> float | None:
    """Evaluates the newest checkpoint in this process alone, and returns the held-out loss; None without held-out rows.

    It may be called once in a process. Raises RunError if the loss differs from that which the ranks have measured.
    """
    saved = open_saved_run(config.run.path)
    held_out = held_out_loader(saved.config)
    evaluation = None
    if held_out.sources:
        evaluation = evaluate(
            saved.engine,
            held_out,
            saved.mesh,
            micro_batch_size=config.train.micro_batch_size,
            micro_batches=1,
            make_mask=saved.documents,
        )
    stop_processes()
    if evaluation is None:
        return None
    if not _agree(evaluation.loss, trained.held_out_loss, _LOSS_TOLERANCE):
        raise RunError(
            f"the checkpoint of step {saved.step} has the held-out loss {evaluation.loss} in one process, and "
            f"{trained.held_out_loss} on the ranks that wrote it; this is a fault of lehr and not of the config: "
            "please report it with the config"
        )
    return evaluation.loss


def _agree(here: float | None, there: float | None, tolerance: float) -> bool:
    if here is None or there is None:
        return here is there
    return math.isclose(here, there, rel_tol=tolerance) or (math.isnan(here) and math.isnan(there))
