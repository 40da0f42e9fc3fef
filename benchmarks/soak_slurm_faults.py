"""The faults of the soak on Slurm. Each strikes a rank, a node or the job, and says what its cause must name."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slurm_cluster import Cluster
from submitted_runs import SubmittedRun

SHORT_CUT_SECONDS, CONTROLLER_SECONDS = 3.0, 5.0
_HEADER = re.compile(r"=== \S+ rank (\d+), process (\d+) on ([^,\s]+)")


@dataclass(frozen=True)
class Victim:
    """A rank of the running attempt, and its node."""

    rank: int
    process: int  # as the node counts its processes
    node: str


@dataclass(frozen=True)
class Fault:
    """A fault that strikes a victim, and how the job must take it.

    `named`: patterns that the recorded reasons must match, of which `{rank}` and `{node}` are the victim's; None if the
    fault must go unnoticed, so that the run goes on.
    """

    strike: Callable[[Cluster, SubmittedRun, Victim], None]
    kind: Literal["rank", "node", "job", "none"]  # what is lost
    named: tuple[str, ...] | None
    spares_batch_host: bool = False


def victims(run: SubmittedRun, attempt: int) -> list[Victim]:
    """Returns the ranks of an attempt, by the first lines of their logs."""
    found = []
    for path in sorted((run.path / "logs" / f"job-{run.job}-attempt-{attempt}").glob("rank-*.log")):
        with contextlib.suppress(OSError), path.open(errors="replace") as file:
            if match := _HEADER.match(file.readline()):
                found.append(Victim(int(match[1]), int(match[2]), match[3]))
    return found


def _kill(cluster: Cluster, run: SubmittedRun, victim: Victim) -> None:
    cluster.run_on(victim.node, "kill", "-KILL", str(victim.process))


def _stop(cluster: Cluster, run: SubmittedRun, victim: Victim) -> None:
    cluster.run_on(victim.node, "kill", "-STOP", str(victim.process))


def _kill_without_controller(cluster: Cluster, run: SubmittedRun, victim: Victim) -> None:
    with cluster.without_controller():
        _kill(cluster, run, victim)
        time.sleep(CONTROLLER_SECONDS)


def _power_off(cluster: Cluster, run: SubmittedRun, victim: Victim) -> None:
    cluster.power_off(victim.node)


def _kill_daemon(cluster: Cluster, run: SubmittedRun, victim: Victim) -> None:
    cluster.kill_slurmd(victim.node)


def _cut_for_long(cluster: Cluster, run: SubmittedRun, victim: Victim) -> None:
    cluster.cut(victim.node, "fab")


def _cut_shortly(cluster: Cluster, run: SubmittedRun, victim: Victim) -> None:
    cluster.cut(victim.node, "fab")
    time.sleep(SHORT_CUT_SECONDS)
    cluster.mend(victim.node, "fab")


def _isolate(cluster: Cluster, run: SubmittedRun, victim: Victim) -> None:
    cluster.cut(victim.node, "eth", "fab")


def _make_read_only(cluster: Cluster, run: SubmittedRun, victim: Victim) -> None:
    cluster.run_on(victim.node, "mount", "--bind", run.path, run.path)
    cluster.run_on(victim.node, "mount", "-o", "remount,bind,ro", run.path)


def _notice(cluster: Cluster, run: SubmittedRun, victim: Victim) -> None:
    run.notice()


def _requeue(cluster: Cluster, run: SubmittedRun, victim: Victim) -> None:
    cluster.run("scontrol", "requeue", run.job)


def _preempt(cluster: Cluster, run: SubmittedRun, victim: Victim) -> None:
    others = len(cluster.nodes) - 1  # so many that a node of the job must be among them
    options = ("--partition=urgent", f"--nodes={others}", "--exclusive", "--output=/dev/null")
    cluster.run("sbatch", *options, "--wrap", "sleep 1")


_NODE_FAILED = ("a node has failed: {node}",)
_KILLED = ("rank {rank} on {node}: killed",)
FAULTS = {
    "a rank is killed": Fault(_kill, "rank", _KILLED),
    "a rank is killed while the controller is away": Fault(_kill_without_controller, "rank", _KILLED),
    "a rank is stopped": Fault(_stop, "rank", ("rank {rank} on {node} gave no answer",)),
    "a node is powered off": Fault(_power_off, "node", _NODE_FAILED),
    "a node's daemon is killed": Fault(_kill_daemon, "node", _NODE_FAILED),
    "a node is isolated": Fault(_isolate, "node", _NODE_FAILED),
    "the link of the ranks is cut for good": Fault(_cut_for_long, "node", ("a node is bad: {node}: .*fab0",)),
    "the run folder becomes read-only on a node": Fault(
        _make_read_only, "node", ("a node is bad: {node}: .*Read-only file system",), spares_batch_host=True
    ),
    "the link of the ranks is cut shortly": Fault(_cut_shortly, "none", None),
    "the notice of the time limit": Fault(_notice, "job", ("stopped early, with a new checkpoint",)),
    "another job preempts": Fault(_preempt, "job", ("another job has preempted it",)),
    "an administrator puts the job back": Fault(_requeue, "job", ("somebody has put the job back",)),
}


@contextlib.contextmanager
def mended_after(cluster: Cluster, run: Path) -> Iterator[None]:
    """Mends all nodes, links, daemons and file systems at the end."""
    try:
        yield
    finally:
        cluster.mend_all()
        for node in cluster.nodes:
            cluster.run_on(node, "bash", "-c", f"while umount --lazy '{run}' 2>/dev/null; do :; done")
