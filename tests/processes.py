"""Real processes for tests: ranks joined by gloo, and the `lehr` command.

    def total(x: int) -> int:                        # at the top of a test module: ranks import it by name
        value = torch.tensor(x + dist.get_rank())
        dist.all_reduce(value)
        return int(value)

    def test_total() -> None:
        assert run_ranks(2, total, 10) == [21, 21]   # each rank's result, by rank

Importing torch, Megatron and DeepSpeed takes seconds. One server process does it once in a test session; each rank, and
each `lehr` that is waited for, is forked from it (tens of milliseconds), so it starts with the imports done and with no
state of any other test. `start_lehr` starts a new interpreter, as a shell does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import pickle
import resource
import signal
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

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

R = TypeVar("R")

# After a rank has failed, the others have this long to report what they saw.
GRACE_SECONDS = 3.0
_PRELOADED = (
    "pytest",
    "parallel.patches.before_megatron",
    "megatron.core.parallel_state",
    "megatron.core.tensor_parallel",
    "megatron.core.pipeline_parallel",
    "megatron.core.transformer",
    "deepspeed",
    "launcher.commands.train",
    "launcher.run.rank_main",
)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_APPEND
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
    *arguments: str | Path, timeout: float = 120.0, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `lehr ARGUMENTS` to its end, as a process of its own in a process group of its own.

    After the timeout it kills the process and all that it started, and raises subprocess.TimeoutExpired.
    """
    command = ["lehr", *map(str, arguments)]
    with tempfile.TemporaryDirectory(prefix="lehr-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        place = (str(out), str(err), str(cwd or Path.cwd()), {**os.environ, **(env or {})})
        process = _context.Process(target=_run_lehr, args=(command[1:], *place))
        process.start()
        process.join(timeout)
        code = process.exitcode
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)  # the processes that it left running, or all after a timeout
        process.join()
        process.close()
        outputs = [path.read_text() if path.exists() else "" for path in (out, err)]
    if code is None:
        raise subprocess.TimeoutExpired(command, timeout, *outputs)
    return subprocess.CompletedProcess(command, code, *outputs)


def start_lehr(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts `lehr ARGUMENTS` in a new interpreter and a process group of its own, its outputs as pipes of text."""
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


def _run_lehr(arguments: list[str], out: str, err: str, cwd: str, environment: dict[str, str]) -> None:
    """Runs a `lehr` command in this process, set up as a new interpreter would be, and ends the process."""
    from launcher.cli import main

    os.setsid()
    for path, standard, flags in ((os.devnull, 0, os.O_RDONLY), (out, 1, _NEW), (err, 2, _NEW)):
        descriptor = os.open(path, flags)
        os.dup2(descriptor, standard)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = (open(n, "rww"[n], closefd=False) for n in range(3))  # noqa: SIM115
    sys.argv = ["lehr", *arguments]
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # the server may have looked it up, in another environment
    code = 0
    try:
        main(arguments)
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


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
