"""Which rank this process is, told by its environment: the only reader of os.environ.

A process is a rank of lehr's own launch (launcher/processes/local_launcher.py), a rank of torchrun or srun, or on its
own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from settings import UserError

Source = Literal["own", "torchrun", "srun", "single"]

_TORCH_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_PARENT_PID, _REPORT_FD, _STORE_FD = "LEHR_PARENT_PID", "LEHR_REPORT_FD", "LEHR_STORE_FD"
# Below the ephemeral ports of Linux (32768 and up), so that no outgoing connection holds the port by chance.
_FIRST_SLURM_PORT, _SLURM_PORTS = 15000, 15000
# Slurm numbers steps that are not srun's (the batch script, an interactive shell) from here on.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class Parent:
    """What a rank that lehr started itself holds of its parent."""

    pid: int
    report_fd: int  # where a failure is told
    store_fd: int | None  # rank 0: a socket that listens at the master's port, so that nobody else can take the port


@dataclass(frozen=True)
class Ranks:
    """This process's place among the processes of a run, and where they meet."""

    rank: int
    local_rank: int  # among the ranks of this node
    world_size: int
    local_world_size: int
    node: int
    master_addr: str
    master_port: int
    source: Source
    parent: Parent | None = None


SINGLE = Ranks(0, 0, 1, 1, 0, "127.0.0.1", 0, "single")


def read_ranks(environ: Mapping[str, str] | None = None) -> Ranks:
    """This process's place.

    torchrun's variables come before srun's, because `srun torchrun` has both. A step of one task is no launch of
    ranks: lehr starts its own there. Raises UserError where the variables contradict each other.
    """
    environ = os.environ if environ is None else environ
    if "RANK" in environ and "WORLD_SIZE" in environ:
        return _from_torch(environ)
    if _is_srun_task(environ) and _number(environ, "SLURM_STEP_NUM_TASKS") > 1:
        return _from_srun(environ)
    return SINGLE


def job_end(environ: Mapping[str, str] | None = None) -> float | None:
    """When Slurm will end the job, on time.time()'s clock; None without a limit. Raises UserError for no number."""
    environ = os.environ if environ is None else environ
    return float(_number(environ, "SLURM_JOB_END_TIME")) if environ.get("SLURM_JOB_END_TIME") else None


def become_rank(ranks: Ranks, *, console_columns: int | None = None) -> None:
    """Put the rank's place into this process's environment: for what runs in it from now on.

    `console_columns`: the rank's output is forwarded to a terminal of this width, so it may draw as on a terminal.
    """
    place = {
        "RANK": ranks.rank,
        "LOCAL_RANK": ranks.local_rank,
        "WORLD_SIZE": ranks.world_size,
        "LOCAL_WORLD_SIZE": ranks.local_world_size,
        "GROUP_RANK": ranks.node,
        "MASTER_ADDR": ranks.master_addr,
        "MASTER_PORT": ranks.master_port,
    }
    if ranks.parent is not None:
        place |= {_PARENT_PID: ranks.parent.pid, _REPORT_FD: ranks.parent.report_fd}
        if ranks.parent.store_fd is not None:
            place[_STORE_FD] = ranks.parent.store_fd
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ["PYTHONUNBUFFERED"] = "1"
    if Path("/sys/class/net/lo").exists():  # all ranks are on this machine, whatever its name resolves to
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if console_columns is not None:
        os.environ.update({"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "COLUMNS": str(console_columns)})


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """For imports before a fork: libraries start no threads, which a fork would lose. `prepare_process` gives more."""
    told = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if told is not None:
            os.environ["OMP_NUM_THREADS"] = told


def prepare_process(ranks: Ranks) -> None:
    """Set what the libraries read when they are imported, and torch's threads.

    Each rank gets its share of the cores unless OMP_NUM_THREADS is set.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // ranks.local_world_size)))
    prepare_imports()
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"].partition(",")[0]))


def prepare_imports() -> None:
    """What does not depend on the rank. Without CUDA, DeepSpeed is told so."""
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # Megatron overlaps by the order in one queue
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else tokenizers warns when a process forks
    # Four lines a rank about optional extensions that are not used here.
    warnings.filterwarnings("ignore", "Transformer Engine and Apex are not installed", UserWarning, "megatron")
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))


def first_host(node_list: str) -> str:
    """The first host of a Slurm node list: `n[01-03,7],gpu2` is n01; `rack[1-2]n[3-4]` is rack1n3."""
    first = re.match(r"(?:[^,\[\]]|\[[^\]]*\])+", node_list.strip())
    if first is None:
        raise UserError(
            f"SLURM_STEP_NODELIST = {node_list!r} names no host; set MASTER_ADDR to the first node's address"
        )
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first.group())


def _from_torch(environ: Mapping[str, str]) -> Ranks:
    missing = [name for name in _TORCH_NAMES if name not in environ]
    if missing:
        raise UserError(
            f"RANK and WORLD_SIZE are set but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not: "
            "start the ranks with torchrun or srun, or unset RANK and WORLD_SIZE to let lehr start its own"
        )
    parent = None
    if _PARENT_PID in environ:
        parent = Parent(
            pid=_number(environ, _PARENT_PID),
            report_fd=_number(environ, _REPORT_FD),
            store_fd=_number(environ, _STORE_FD) if _STORE_FD in environ else None,
        )
    ranks = Ranks(
        rank=_number(environ, "RANK"),
        local_rank=_number(environ, "LOCAL_RANK"),
        world_size=_number(environ, "WORLD_SIZE"),
        local_world_size=_number(environ, "LOCAL_WORLD_SIZE", environ["WORLD_SIZE"]),
        node=_number(environ, "GROUP_RANK", "0"),
        master_addr=environ["MASTER_ADDR"],
        master_port=_number(environ, "MASTER_PORT"),
        source="torchrun" if parent is None else "own",
        parent=parent,
    )
    return _checked(ranks)


def _is_srun_task(environ: Mapping[str, str]) -> bool:
    names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS")
    return all(name in environ for name in names) and _number(environ, "SLURM_STEP_ID") < _FIRST_SPECIAL_STEP


def _from_srun(environ: Mapping[str, str]) -> Ranks:
    node = _number(environ, "SLURM_NODEID", "0")
    world_size = _number(environ, "SLURM_STEP_NUM_TASKS")
    job, step = _number(environ, "SLURM_JOB_ID"), _number(environ, "SLURM_STEP_ID")
    # A requeued job has the same id; its first life may still hold the port on a node that was cut off.
    restarts = _number(environ, "SLURM_RESTART_COUNT", "0")
    derived = _FIRST_SLURM_PORT + (job * 101 + step * 11 + restarts) % _SLURM_PORTS
    ranks = Ranks(
        rank=_number(environ, "SLURM_PROCID"),
        local_rank=_number(environ, "SLURM_LOCALID"),
        world_size=world_size,
        local_world_size=_tasks_on_node(environ, node, world_size),
        node=node,
        master_addr=environ.get("MASTER_ADDR") or _slurm_address(environ),
        master_port=_number(environ, "MASTER_PORT", str(derived)),
        source="srun",
    )
    return _checked(ranks)


def _tasks_on_node(environ: Mapping[str, str], node: int, world_size: int) -> int:
    """SLURM_STEP_TASKS_PER_NODE reads like `2(x3),1`: nodes 0 to 2 have two tasks, node 3 has one."""
    counts: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", str(world_size)).split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise UserError(f"SLURM_STEP_TASKS_PER_NODE: {part!r} is not of the form N or N(xM)")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts[node] if node < len(counts) else counts[-1]


def _slurm_address(environ: Mapping[str, str]) -> str:
    host = first_host(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or "")
    try:
        socket.getaddrinfo(host, None)
        return host
    except OSError:
        pass
    # A node's name in Slurm need not be a name in DNS: Slurm itself knows the address.
    if shutil.which("scontrol"):
        shown = subprocess.run(["scontrol", "-o", "show", "node", host], capture_output=True, text=True, timeout=30)
        address = re.search(r"\bNodeAddr=(\S+)", shown.stdout)
        if address:
            return address[1]
    raise UserError(f"the first node {host!r} of the Slurm step does not resolve; set MASTER_ADDR to its address")


def _checked(ranks: Ranks) -> Ranks:
    if not 0 <= ranks.rank < ranks.world_size:
        raise UserError(f"rank {ranks.rank} is not below the world size {ranks.world_size}")
    if not 0 <= ranks.local_rank < ranks.local_world_size:
        raise UserError(f"local rank {ranks.local_rank} is not below the {ranks.local_world_size} ranks of this node")
    return ranks


def _number(environ: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environ.get(name, default)
    if text is None:
        raise UserError(f"{name} is not set")
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} = {text!r} must be a whole number") from None
