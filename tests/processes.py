"""Real processes for tests: ranks joined by gloo, and the `lehr` command.

    def total(x: int) -> int:                        # at the top of a test module: ranks import it by name
        value = torch.tensor(x + dist.get_rank())
        dist.all_reduce(value)
        return int(value)

    def test_total() -> None:
        assert run_ranks(2, total, 10) == [21, 21]   # each rank's result, by rank

Importing torch, Megatron and DeepSpeed takes seconds. One server process does it once in a test session; each rank and
each `lehr` is forked from it (tens of milliseconds), so it starts with the imports done and with no state of any other
test. `exec_lehr` starts a new interpreter, as a shell does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from forked_lehr import ForkedLehr

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

R = TypeVar("R")

# After a rank has failed, the others have this long to report what they saw.
GRACE_SECONDS = 3.0
_OUTPUT_SECONDS = 60.0  # for the outputs of a killed process to end
_PRELOADED = (
    "pytest",
    "parallel.patches.before_megatron",
    "megatron.core.parallel_state",
    "megatron.core.tensor_parallel",
    "megatron.core.pipeline_parallel",
    "megatron.core.transformer.transformer_block",
    "deepspeed",
    "launcher.cli",
    "launcher.commands.train",
    "launcher.commands.eval",
    "launcher.commands.law.app",
    "launcher.run.rank_main",
    "launcher.run.branching",
    "launcher.run.start_checks",
    "data.pipeline.build",
    "optim.adamw",
    "schedules.cosine",
)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(_PRELOADED))


class RanksFailedError(AssertionError):
    """At least one rank raised, died or did not end in time; the text has every rank's traceback and output."""


class _Outcome(NamedTuple):
    """The message of a rank: a pickled result, or a traceback and the time at which it was raised."""

    result: bytes | None
    error: str
    seconds: float


def run_ranks(
    world_size: int, function: Callable[..., R], *args: object, timeout: float = 60.0, join: bool = True
) -> list[R]:
    """Calls `function(*args)` on `world_size` processes and returns each rank's result, by rank.

    The function must stand at the top of its module. With `join` the ranks are in a gloo process group already;
    without, RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set. Raises RanksFailedError; never hangs.
    """
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    payload = pickle.dumps((function, args))
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        ranks = []
        try:
            for rank in range(world_size):
                ours, theirs = _context.Pipe()
                place = (rank, world_size, store.port, str(Path(folder) / f"{rank}.txt"), timeout, join)
                process = _context.Process(target=_run_rank, args=(theirs, payload, *place), daemon=True)
                process.start()
                theirs.close()
                ranks.append((process, ours))
            outcomes = _collect([connection for _, connection in ranks], time.monotonic() + timeout)
            if all(outcome is not None and outcome.result is not None for outcome in outcomes):
                for _, connection in ranks:
                    connection.send(None)  # all are done: no rank closes sockets that another still uses
                for process, _ in ranks:
                    process.join(5)
                return [pickle.loads(outcome.result) for outcome in outcomes if outcome and outcome.result is not None]
            for process, _ in ranks:
                process.join(0.05)
            codes = [process.exitcode for process, _ in ranks]
            raise RanksFailedError(_explain(function, outcomes, codes, Path(folder), timeout))
        finally:
            for process, connection in ranks:
                process.kill()
                process.join(10)
                connection.close()


def store_of_ranks() -> Store:
    """Connects a rank of `run_ranks` to the store at which all of its ranks met."""
    import torch.distributed as dist

    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))  # type: ignore[attr-defined]


def lehr(
    *arguments: str | Path,
    timeout: float = 120.0,
    before: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `lehr ARGUMENTS` to its end, as `start_lehr` does.

    After the timeout it kills the process and all that it started, and raises subprocess.TimeoutExpired.
    """
    process = start_lehr(*arguments, before=before, cwd=cwd, env=env)
    process.read_outputs()
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill_group()
        raise subprocess.TimeoutExpired(process.args, timeout, *process.communicate(_OUTPUT_SECONDS)) from None
    process.kill_group()  # the processes that it left running
    return subprocess.CompletedProcess(process.args, code, *process.communicate(_OUTPUT_SECONDS))


def start_lehr(
    *arguments: str | Path, before: str = "", cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> ForkedLehr:
    """Starts `lehr ARGUMENTS` as a forked process in a process group of its own, its outputs as pipes of text.

    `before`: Python code that the process runs first, for instance to replace a function of lehr.
    """
    return ForkedLehr(_context, list(map(str, arguments)), before=before, cwd=cwd, env=env)


def exec_lehr(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts `lehr ARGUMENTS` in a new interpreter, as a shell does; otherwise as `start_lehr`.

    It is for what the start itself does: the imports take over three seconds.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )


def computing_seconds(run: Callable[[], object]) -> float:
    """Returns the time that the processes which `run` waits for computed, in user and in kernel mode.

    Unlike the time on the clock, it hardly depends on what else the machine does; compare it with that of a similar
    process, since sharing a core makes caches cold.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _collect(connections: list[Connection], deadline: float) -> list[_Outcome | None]:
    """Returns every rank's outcome; None if it died or did not end in time (after a failure: the grace period)."""
    outcomes: list[_Outcome | None] = [None] * len(connections)
    pending = dict(zip(connections, range(len(connections)), strict=True))
    while pending:
        ready = wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for connection in ready:
            assert isinstance(connection, Connection)
            rank = pending.pop(connection)
            with contextlib.suppress(EOFError, ConnectionError):
                outcomes[rank] = connection.recv()
            outcome = outcomes[rank]
            if outcome is None or outcome.result is None:
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    return outcomes


def _run_rank(
    connection: Connection,
    payload: bytes,
    rank: int,
    world_size: int,
    port: int,
    output: str,
    timeout: float,
    join: bool,
) -> None:
    """Runs one rank in this process; it never returns to multiprocessing's own end of a process."""
    import torch
    import torch.distributed as dist

    from settings.processes import die_with_parent

    with open(output, "wb", buffering=0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    die_with_parent(os.getppid())
    faulthandler.enable(sys.stderr)
    faulthandler.dump_traceback_later(max(0.5 * timeout, timeout - 1.0), file=sys.stderr)
    try:
        torch.set_num_threads(1)
        place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world_size}
        os.environ.update({name: str(value) for name, value in place.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
        if join:
            limit = timedelta(seconds=timeout)
            store = dist.TCPStore("127.0.0.1", port, timeout=limit)
            dist.init_process_group("gloo", rank=rank, world_size=world_size, store=store, timeout=limit)
        function, args = pickle.loads(payload)
        outcome = _Outcome(pickle.dumps(function(*args)), "", time.time())
    except BaseException:
        outcome = _Outcome(None, traceback.format_exc(), time.time())
    faulthandler.cancel_dump_traceback_later()
    with contextlib.suppress(EOFError, ConnectionError):
        connection.send(outcome)
        if outcome.result is not None:
            connection.recv()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if outcome.result is not None else 1)


def _explain(
    function: Callable[..., object],
    outcomes: list[_Outcome | None],
    codes: list[int | None],
    folder: Path,
    timeout: float,
) -> str:
    """Returns the message: every rank without a result, those that raised first, in the order in which they raised."""
    parts = [f"{function.__module__}.{function.__qualname__} failed on {len(outcomes)} ranks"]
    order = sorted(range(len(outcomes)), key=lambda rank: _seconds(outcomes[rank]))
    for rank in order:
        outcome = outcomes[rank]
        if outcome is not None and outcome.result is not None:
            continue
        if outcome is not None:
            reason = outcome.error.rstrip()
        elif codes[rank] is None:
            reason = f"did not end (the limit is {timeout:g} s, or {GRACE_SECONDS:g} s after another rank's failure)"
        else:
            reason = f"died with exit code {codes[rank]}"
        output = (folder / f"{rank}.txt").read_text(errors="replace") if (folder / f"{rank}.txt").exists() else ""
        last_lines = "\n".join(output.rstrip().splitlines()[-60:])
        parts.append(f"--- rank {rank}: {reason}" + (f"\n--- its output:\n{last_lines}" if last_lines else ""))
    return "\n".join(parts)


def _seconds(outcome: _Outcome | None) -> float:
    return outcome.seconds if outcome is not None else float("inf")
