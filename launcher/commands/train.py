"""`lehr train`: starts its own ranks, or is one of torchrun's, srun's or its own."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer

from launcher.exit_codes import FAILED, USER_MISTAKE, user_errors
from launcher.processes import failure_reports as reports
from launcher.processes.environment import Ranks, one_thread, prepare_imports, prepare_process, read_ranks
from launcher.processes.hang_report import STACKS_SIGNAL
from launcher.processes.local_launcher import run_ranks
from launcher.processes.rank_logs import rank_output
from launcher.processes.signals import exit_immediately
from launcher.run.machine import check_machine, look, memory_warnings
from settings import UserError, compose
from settings.processes import die_with_parent

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from launcher.run.config import RunConfig
    from train.safety.watchdog import Hang

# So long a rank that hangs keeps its connections: those that wait for it say where they stand, not that it is gone.
_OTHERS_SPEAK_SECONDS = 3.0
_ENDING_THREADS_SECONDS = 1.0


@user_errors
def train(
    config: Annotated[Path, typer.Argument(help="the run config, a YAML file", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as optim.lr=1e-3 parallel.tensor=2")
    ] = None,
) -> None:
    """Train a model: on as many processes as the parallel sizes say, or on those of torchrun or srun.

    Exit codes: 0 done; 2 a mistake in the config or its files; 75 stopped early with a checkpoint (the same command
    goes on); 128 + a signal's number: ended by it before there was anything to save; anything else a failure, with the
    rank and why.
    """
    ranks = read_ranks()
    if ranks.parent is None:
        exit_immediately(silently=ranks.source != "single")  # of many ranks only the launcher needs to say so
    if ranks.source == "single":
        with one_thread():
            run_config = _load(config, overrides or [], None)
        if run_config.parallel.ranks > 1:
            command = lehr_command("train", str(config), *(overrides or []))
            start = _starter(run_config, command)
            log_folder = run_config.run.path / "logs"
            raise SystemExit(run_ranks(start, count=run_config.parallel.ranks, log_folder=log_folder))
        _be_a_rank(ranks, run_config)
    if ranks.parent is not None:
        die_with_parent(ranks.parent.pid)
    try:
        run_config = _load(config, overrides or [], ranks)
    except UserError as error:
        _fail(ranks, error, sys.stderr)
    _be_a_rank(ranks, run_config)


def _load(path: Path, overrides: list[str], ranks: Ranks | None) -> RunConfig:
    """The config, checked with all it names. `ranks`: of a launch; None: none is started yet.

    The import of the config brings torch, which the command line does without until here.
    """
    if ranks is not None:
        prepare_process(ranks)
    from launcher.run.config import RunConfig
    from launcher.run.input_hashes import inputs_of
    from launcher.run.preflight import check_config, model_with_vocabulary
    from launcher.run.schedule_change import schedule_change_warnings
    from launcher.run.verify_shards import verify
    from train.run_folder.folder import check_run

    run_config = compose(RunConfig, path, overrides)
    if ranks is not None and ranks.parent is not None:
        return run_config  # the parent has checked it
    machine = look()
    warnings = check_machine(run_config, machine, ranks)
    warnings += check_config(run_config, world_size=run_config.parallel.ranks if ranks is None else ranks.world_size)
    check_run(run_config.run.path, run_config, inputs_of(run_config))
    warnings += schedule_change_warnings(run_config)
    warnings += memory_warnings(run_config, model_with_vocabulary(run_config), machine, ranks)
    if ranks is None or ranks.rank == 0:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
    if ranks is None:  # last: it takes longest, and notes in the run folder what it has read
        verify(run_config)
    return run_config


def lehr_command(*arguments: str) -> list[str]:
    """`lehr ARGUMENTS` with this Python, of these rooms: the user's folder may have a `data` or a `model` of its own.

    `python -m` looks into the current folder first, with -P it does not: that would miss a tree that is not installed.
    """
    from_source = Path.cwd() == Path(__file__).resolve().parents[2]
    return [sys.executable, *([] if from_source else ["-P"]), "-m", "launcher", *arguments]


def _starter(run_config: RunConfig, command: list[str]) -> Callable[[Ranks], NoReturn]:
    """How a forked process becomes a rank.

    Importing torch, Megatron and DeepSpeed takes seconds, most of them of computing. On a CPU it is done once, before
    the fork. What CUDA has begun in a process does not survive a fork, nor do threads: then a rank starts afresh.
    """
    prepare_imports()
    import torch

    if not torch.cuda.is_available():
        with one_thread():
            importlib.import_module("launcher.run.rank_main")
        if single_threaded():
            return lambda ranks: _be_a_rank(ranks, run_config)
    return lambda ranks: os.execv(command[0], command)


def single_threaded() -> bool:
    """Whether this is the process's only thread. One that was joined is still there for a moment: it is waited for."""
    patience = time.monotonic() + _ENDING_THREADS_SECONDS
    while more := len(os.listdir("/proc/self/task")) > 1:
        if time.monotonic() > patience:
            break
        time.sleep(0.001)
    return not more


def _be_a_rank(ranks: Ranks, run_config: RunConfig) -> NoReturn:
    """Run one rank's part in this process, and end the process."""
    prepare_process(ranks)
    faulthandler.register(STACKS_SIGNAL, file=2, all_threads=True)
    from launcher.run.rank_main import run_rank  # takes seconds; only then is anything written

    with rank_output(ranks, run_config.run.path / "logs") as console:
        try:
            code = run_rank(run_config, ranks, on_hang=lambda hang, store: _end_hung(ranks, hang, store, console))
        except Exception as error:
            _fail(ranks, error, console)
    _end_process(code, sys.stdout, sys.stderr)


def _end_hung(ranks: Ranks, hang: Hang, store: Store, console: TextIO) -> NoReturn:
    """From the watchdog's thread, the main one hangs: its stacks to the log, where it stands to the console."""
    line = f"rank {ranks.rank} hangs: {hang.position}"
    print(f"{line}\n{hang.stacks}", file=sys.stderr, flush=True)
    if ranks.parent is not None:
        reports.send(reports.of_hang(hang.position, hang.main_stack), ranks.parent.report_fd)
        time.sleep(_OTHERS_SPEAK_SECONDS)
        os._exit(FAILED)
    if ranks.rank > 0:  # rank 0's standard error is the console
        print(f"{line}\n{hang.main_stack}", file=console, flush=True)
    from launcher.processes.rendezvous import silent_ranks

    if said := silent_ranks(store, ranks, seconds=_OTHERS_SPEAK_SECONDS):
        print(f"the run hangs: {said}", file=console, flush=True)
    os._exit(FAILED)


def _fail(ranks: Ranks, error: Exception, console: TextIO) -> NoReturn:
    """Say why, once and in the right place, and end without waiting for what the other ranks still hold open."""
    report = reports.describe(error)
    if ranks.parent is not None:
        reports.send(report, ranks.parent.report_fd)
    elif report.kind == "failure":
        if report.traceback:
            print(report.traceback, file=sys.stderr)
        print(f"rank {ranks.rank} failed: {report.message}", file=console)
    elif ranks.rank == 0:
        print(f"error: {report.message}", file=sys.stderr)
    elif ranks.local_rank == 0:  # another node may lack what rank 0's has; the details are rank 0's
        print(f"error on node {ranks.node}: {report.message.splitlines()[0]}", file=console)
    _end_process(USER_MISTAKE if report.kind == "user" else FAILED, sys.stdout, sys.stderr, console)


def _end_process(code: int, *streams: TextIO) -> NoReturn:
    """All is written and closed: what threads of libraries would still do at an interpreter's end can only hang."""
    for stream in streams:
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
