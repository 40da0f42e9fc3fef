"""Slurm's variables: a task's place among the tasks of its step, and the address of the step's first node."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.processes.rank_info import AddressError, RankInfo, read_int, read_port
from settings import UserError

# Below the ephemeral ports of Linux (32768 and up), so that no outgoing connection holds the port by chance.
_FIRST_PORT, _PORTS = 15000, 15000
_TRIED_PORTS = 8  # one that is taken, by slurmd or by another job, gives way to the next
_ASK_SECONDS = 30.0
# Slurm numbers steps that srun did not start (the batch script, an interactive shell) from here on.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class SlurmJob:
    """The Slurm job that this process belongs to."""

    job_id: str  # of a task of an array: 12_3
    attempt: int  # from 1 on: a requeued job keeps its id
    node: str  # the node's name in Slurm; "" if Slurm does not say it

    def __str__(self) -> str:
        return f"job {self.job_id} attempt {self.attempt}"

    @property
    def folder_name(self) -> str:
        """The name of the folder that has the logs of this attempt."""
        return f"job-{self.job_id}-attempt-{self.attempt}"

    def to_plain(self) -> dict[str, str | int]:
        """Returns what is recorded of a job."""
        return {"id": self.job_id, "attempt": self.attempt, "node": self.node}


def read_slurm_job(environ: Mapping[str, str]) -> SlurmJob | None:
    """Reads the job of this process; None outside of Slurm. Raises UserError if a variable is wrong."""
    if not environ.get("SLURM_JOB_ID"):
        return None
    restarts = read_int(environ, "SLURM_RESTART_COUNT", "0")
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    job_id = f"{array}_{task}" if array and task else environ["SLURM_JOB_ID"]
    return SlurmJob(job_id, restarts + 1, environ.get("SLURMD_NODENAME", ""))


def is_srun_rank(environ: Mapping[str, str]) -> bool:
    """Returns whether srun started this process as one of several tasks.

    A step of one task launches no ranks: lehr starts its own there.
    """
    names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS")
    return (
        all(name in environ for name in names)
        and read_int(environ, "SLURM_STEP_ID") < _FIRST_SPECIAL_STEP
        and read_int(environ, "SLURM_STEP_NUM_TASKS") > 1
    )


def read_slurm_variables(environ: Mapping[str, str]) -> RankInfo:
    """Reads the place of a task of srun. MASTER_ADDR and MASTER_PORT are the user's if set, else derived.

    Raises UserError if a variable is missing or wrong; AddressError if the address or the port is.
    """
    node_rank = read_int(environ, "SLURM_NODEID", "0")
    world_size = read_int(environ, "SLURM_STEP_NUM_TASKS", least=1)
    local_world_size = _tasks_on_node(environ, node_rank, world_size)
    rank = read_int(environ, "SLURM_PROCID", most=world_size - 1)
    local_rank = read_int(environ, "SLURM_LOCALID", most=local_world_size - 1)
    job, step = read_int(environ, "SLURM_JOB_ID"), read_int(environ, "SLURM_STEP_ID")
    # A requeued job keeps its id; its earlier processes may still hold the port on a node that was cut off.
    restarts = read_int(environ, "SLURM_RESTART_COUNT", "0")
    derived = [_FIRST_PORT + (job * 101 + step * 11 + restarts + more) % _PORTS for more in range(_TRIED_PORTS)]
    return RankInfo(
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        local_world_size=local_world_size,
        node_rank=node_rank,
        master_addr=environ.get("MASTER_ADDR") or first_node_address(environ, rank=rank, local_rank=local_rank),
        master_port=read_port(environ, rank=rank, local_rank=local_rank, default=derived[0]),
        launcher="srun",
        more_ports=() if environ.get("MASTER_PORT") else tuple(derived[1:]),
        store_name=f"job {job}, step {step}, restart {restarts}",
    )


def read_job_end_time(environ: Mapping[str, str]) -> float | None:
    """Reads when Slurm will end the job, on the clock of time.time(); None without a limit.

    Slurm 22.05 does not set the variable: there `ask_job_end_time` finds it.
    """
    return float(read_int(environ, "SLURM_JOB_END_TIME", least=1)) if environ.get("SLURM_JOB_END_TIME") else None


def ask_job_end_time(job_id: str) -> float | None:
    """Asks Slurm when it will end a job; None without a limit, and if Slurm does not answer."""
    try:
        squeue = ["env", "SLURM_TIME_FORMAT=standard", "squeue"]  # a user's own format would not be read
        answer = subprocess.run(
            [*squeue, "-h", "-j", job_id, "-o", "%e"], capture_output=True, text=True, timeout=_ASK_SECONDS
        )
        return time.mktime(time.strptime(answer.stdout.strip(), "%Y-%m-%dT%H:%M:%S"))
    except (OSError, ValueError, OverflowError, subprocess.SubprocessError):
        return None


def allocated_cores(environ: Mapping[str, str]) -> int | None:
    """Reads how many cores of this node Slurm gave the step, or the batch script; None outside of Slurm."""
    if not environ.get("SLURM_JOB_ID") or not environ.get("SLURM_CPUS_ON_NODE"):
        return None
    return read_int(environ, "SLURM_CPUS_ON_NODE", least=1)


def cores_of_task(environ: Mapping[str, str]) -> int | None:
    """Reads how many cores each task of srun was given with --cpus-per-task; None if it was not said."""
    if not is_srun_rank(environ) or not environ.get("SLURM_CPUS_PER_TASK"):
        return None
    return read_int(environ, "SLURM_CPUS_PER_TASK", least=1)


def first_host(node_list: str) -> str:
    """Returns the first host of a Slurm node list: n01 of `n[01-03,7],gpu2`, rack1n3 of `rack[1-2]n[3-4]`.

    Returns "" if it names no host.
    """
    first = re.match(r"(?:[^,\[\]]|\[[^\]]*\])+", node_list.strip())
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first.group()) if first else ""


def _tasks_on_node(environ: Mapping[str, str], node_rank: int, world_size: int) -> int:
    """Reads SLURM_STEP_TASKS_PER_NODE: by `2(x3),1` nodes 0 to 2 have two tasks and node 3 has one."""
    counts: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", str(world_size)).split(","):
        match = re.fullmatch(r"([1-9]\d*)(?:\(x([1-9]\d*)\))?", part.strip())
        if match is None:
            raise UserError(f'SLURM_STEP_TASKS_PER_NODE: "{part}" must be N or N(xM), with whole numbers from 1 on')
        counts += [int(match[1])] * int(match[2] or 1)
    return counts[node_rank] if node_rank < len(counts) else counts[-1]


def first_node_address(environ: Mapping[str, str], *, rank: int = 0, local_rank: int = 0) -> str:
    """Returns the address of the first node of the step: its name, or what Slurm knows. Raises AddressError."""
    node_list = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or ""
    host = first_host(node_list)
    if not host:
        reason = f"SLURM_STEP_NODELIST = {node_list!r} names no host; set MASTER_ADDR to the first node's address"
        raise AddressError(reason, rank=rank, local_rank=local_rank)
    try:
        socket.getaddrinfo(host, None)
        return host
    except OSError:
        pass
    # A node's name in Slurm need not be a name in DNS: Slurm itself knows the address.
    if shutil.which("scontrol"):
        listing = subprocess.run(["scontrol", "-o", "show", "node", host], capture_output=True, text=True, timeout=30)
        address = re.search(r"\bNodeAddr=(\S+)", listing.stdout)
        if address:
            return address[1]
    reason = f"the first node {host!r} of the Slurm step does not resolve; set MASTER_ADDR to its address"
    raise AddressError(reason, rank=rank, local_rank=local_rank)
