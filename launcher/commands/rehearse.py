"""`lehr rehearse`: a run's layout and data with a small model on this machine's CPU, before a node-hour is spent."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.commands.arguments import OverridesArgument, RunConfigArgument
from launcher.exit_codes import DONE, STOPPED_EARLY, USER_MISTAKE
from launcher.processes.environment import check_environment, hide_gpus, one_openmp_thread, read_rank_info
from settings import UserError

if TYPE_CHECKING:
    from launcher.rehearsal.plan import Rehearsal


def rehearse(
    config: RunConfigArgument,
    overrides: OverridesArgument = None,
    ranks: Annotated[
        int, typer.Option(min=1, help="Most ranks on this machine; a layout of more has fewer data ranks.")
    ] = 64,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder of the rehearsal.")] = False,
) -> None:
    """Train three steps of a run's layout with a small model on this CPU, resume in another layout, and evaluate.

    The checks are those of `lehr train` on the cluster, the shards are the real ones, and the run itself is not
    touched. Exit codes are those of `lehr train`: 0: all of it worked. 2: the config or a file that it names has a
    mistake. 75: the rehearsal was stopped. Any other: a rank failed, and the message names it and the reason.
    """
    if read_rank_info().launcher != "none":
        raise UserError("`lehr rehearse` starts its ranks itself: call it once, without torchrun or srun")
    hide_gpus()
    check_environment()
    folder = Path(tempfile.mkdtemp(prefix="lehr-rehearsal-"))
    failed = False
    try:
        code = _rehearse(config, overrides or [], folder, most_ranks=ranks)
        failed = not (code in (DONE, USER_MISTAKE) or _is_stop(code))
    except Exception as error:
        failed = not isinstance(error, UserError)
        raise
    finally:
        _leave(folder, keep=keep or failed)
    if code != DONE:
        raise SystemExit(code)


def _rehearse(path: Path, overrides: list[str], folder: Path, *, most_ranks: int) -> int:
    """Rehearses in `folder`, and returns the exit code. Raises UserError, RunError."""
    began = time.monotonic()
    with one_openmp_thread():
        from launcher.rehearsal.first_batch import read_first_batch
        from launcher.rehearsal.phases import Trained, check_agreement, check_evaluation, read_trained, train
        from launcher.rehearsal.report import Results, describe_layout, proved_lines, ranks, unproved_lines

        plan = _plan(path, overrides, folder, most_ranks=most_ranks)
        print(f"\n1. The first global batch of the run, {plan.config.train.global_batch_size:,} rows", flush=True)
        batch = read_first_batch(plan.config)
    trained: list[Trained] = []
    for number, what, config in ((2, "Training", plan.first), (3, "Resuming", plan.second)):
        print(f"\n{number}. {what} on {ranks(config.parallel)}: {describe_layout(config.parallel)}", flush=True)
        if code := train(config):
            print(f"the rehearsal {'was stopped' if _is_stop(code) else 'failed'}", file=sys.stderr)
            return code
        trained.append(read_trained(config))
    first, second = trained
    check_agreement(first, second)
    print("\n4. Evaluating in one process", flush=True)
    results = Results(batch, first, second, check_evaluation(plan.first, first))
    print(f"\nThe rehearsal took {time.monotonic() - began:.0f} s. It has proved:")
    for line in proved_lines(plan, results):
        print(f"  - {line}")
    print("It has not proved:")
    for line in unproved_lines(plan, results):
        print(f"  - {line}")
    return DONE


def _plan(path: Path, overrides: list[str], folder: Path, *, most_ranks: int) -> Rehearsal:
    """Checks the run as the cluster would, and prints the plan of the rehearsal with its cost."""
    from launcher.processes.environment import available_cores
    from launcher.rehearsal.cost import cost_line
    from launcher.rehearsal.plan import check_for_cluster, plan_rehearsal
    from launcher.rehearsal.report import change_lines
    from launcher.run.config import load_run_config

    config = load_run_config(path, overrides)
    found = check_for_cluster(config)
    for note in found.notes:
        print(note)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    plan = plan_rehearsal(config, folder, most_ranks=most_ranks)
    print(cost_line(plan, cores=available_cores()))
    print("What the rehearsal changes:")
    for line in change_lines(plan):
        print(line)
    return plan


def _is_stop(code: int) -> bool:
    """Returns whether an exit code of the ranks says that the user has stopped them."""
    return code == STOPPED_EARLY or code > 128


def _leave(folder: Path, *, keep: bool) -> None:
    """Removes the folder of the rehearsal, or says where it is: a rank that failed has left its log there."""
    if keep and any(folder.iterdir()):
        print(f"configs, logs, metrics and checkpoints of the rehearsal are in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
