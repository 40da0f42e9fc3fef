"""torchrun on one node of a job: it passes signals on to its ranks, and ends with their exit code.

torchrun itself ends with exit code 1 whatever its ranks' codes are, so that an early stop would look like a failure.
Its function `run` is called here instead of the command: the error that it raises has the exit code of each rank that
has failed. Its agent kills the ranks 30 s after SIGTERM, and dies of SIGUSR1; so these signals are taken here.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

import psutil

from launcher.exit_codes import BY_SIGNAL, DIVERGED, DONE, FAILED, FENCED, STOPPED_EARLY, USER_MISTAKE
from launcher.processes.rank_info import RankInfo
from train.safety.stop_signals import set_stop_handlers

_LOOK_SECONDS = 0.2
_AGENTS_OWN_SIGNAL = "SIGQUIT"  # the agent wants one to handle; the others are taken here
_DECISIVE = (USER_MISTAKE, FENCED, DIVERGED)
_AGENTS_GRACE_SECONDS = 25  # and a little more: it kills the ranks that are left after 30 s


def run_node(command: Sequence[str], place: RankInfo, *, ranks_per_node: int, node: str) -> int:
    """Starts the ranks of this node, each by the command, waits for them, and returns their exit code.

    `place`: of the node among those of the step, with the address at which they meet. `node`: its name in Slurm.
    """
    with _signals_to_ranks():
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import parse_args, run

        logging.disable(logging.ERROR)  # the agent would tell of failures that the ranks tell themselves
        options = {
            "nnodes": place.world_size,
            "node-rank": place.node_rank,
            "nproc-per-node": ranks_per_node,
            "master-addr": place.master_addr,
            "master-port": place.master_port,
            "signals-to-handle": _AGENTS_OWN_SIGNAL,
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        try:
            run(parse_args([*words, "--no-python", *command]))
        except ChildFailedError as error:
            codes = own_codes({rank: (each.exitcode, each.timestamp) for rank, each in error.failures.items()})
            for rank, code in codes.items():
                if code < 0:  # this rank could tell nothing itself
                    print(f"rank {rank} on {node}: {signal.strsignal(-code)}", file=sys.stderr, flush=True)
            return node_exit_code(codes)
        except Exception as error:  # of the agent: no port, or another node does not come
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"torchrun on {node} failed: {reason}", file=sys.stderr, flush=True)
            return FAILED
        return DONE


def own_codes(failures: Mapping[int, tuple[int, int]]) -> dict[int, int]:
    """Returns the exit codes of the ranks that have failed by themselves, or of all if there is none.

    When a rank has failed, the agent ends the others with SIGTERM, and with SIGKILL half a minute later; they count
    among the failures too. `failures`: of each rank its exit code, negative for a signal, and the second of its end.
    """
    first = min(seconds for _, seconds in failures.values())
    own = {
        rank: code
        for rank, (code, seconds) in failures.items()
        if code != -signal.SIGTERM and not (code == -signal.SIGKILL and seconds - first >= _AGENTS_GRACE_SECONDS)
    }
    return own or {rank: code for rank, (code, _) in failures.items()}


def node_exit_code(codes: Mapping[int, int]) -> int:
    """Returns the exit code of a node by those of its failed ranks, of which one that a signal has ended is negative.

    A code that decides about the job comes first, and an early stop last: it is that of the node if all have stopped.
    """
    found = [BY_SIGNAL - code if code < 0 else code for code in codes.values()]
    for code in _DECISIVE:
        if code in found:
            return code
    return max((code for code in found if code != STOPPED_EARLY), default=STOPPED_EARLY)


@contextlib.contextmanager
def _signals_to_ranks() -> Iterator[None]:
    """Passes every stop signal on to the ranks, the children of this process, also to those that start later."""
    received: list[int] = []
    done = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    def forward() -> None:
        told: set[tuple[int, int]] = set()
        while not done.wait(_LOOK_SECONDS):
            for number in dict.fromkeys(received) if received else ():
                for child in psutil.Process().children():
                    if (child.pid, number) not in told:
                        told.add((child.pid, number))
                        with contextlib.suppress(psutil.NoSuchProcess):
                            child.send_signal(number)

    set_stop_handlers(note)
    thread = threading.Thread(target=forward, name="signals to ranks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
