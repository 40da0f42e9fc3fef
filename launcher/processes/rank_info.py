"""A process's place in a run: its rank, the number of ranks, and the address at which the ranks meet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from settings import UserError

# The variables by which a rank of lehr's own launcher finds its parent.
PARENT_PID, REPORT_FD, STORE_FD = "LEHR_PARENT_PID", "LEHR_REPORT_FD", "LEHR_STORE_FD"
_MOST_NAMED = 10
_REQUIRED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class ParentHandles:
    """A rank's connections to the process of lehr that started it."""

    pid: int
    report_fd: int  # a pipe, for the report of a failure
    store_fd: int | None  # rank 0: a socket that listens at the master port, so that nobody else can take the port


@dataclass(frozen=True)
class RankInfo:
    """This process's place among the ranks of a run, and the address at which they meet."""

    rank: int
    local_rank: int  # among the ranks of this node
    world_size: int
    local_world_size: int
    node_rank: int
    master_addr: str
    master_port: int
    launcher: Literal["lehr", "torchrun", "srun", "none"]  # which program started the ranks
    parent: ParentHandles | None = None  # if lehr started them
    has_agent: bool = False  # torchrun's agent is the parent process; else the variables may be set by any program
    agent_serves_store: bool = False  # at the master port; else rank 0 does
    more_ports: tuple[int, ...] = ()  # that rank 0 tries in turn if the master port is taken
    store_name: str = ""  # by which a store at one of these ports is known to be that of this run; "" if there is one

    def gpu(self, visible: int) -> int:
        """Returns the number of this rank's GPU among those it sees: all of its node, or only its own (srun can do so).

        `visible`: the number of GPUs that it sees. Without any, the number is 0.
        """
        return self.local_rank % visible if visible else 0


class AddressError(UserError):
    """The address at which the ranks meet is missing or wrong, so that no rank can tell the others of it."""

    def __init__(self, message: str, *, rank: int, local_rank: int) -> None:
        super().__init__(message)
        self.rank = rank
        self.local_rank = local_rank


SINGLE_PROCESS = RankInfo(0, 0, 1, 1, 0, "127.0.0.1", 0, "none")


def rank_0_elsewhere(*, world_size: int, local_world_size: int) -> RankInfo:
    """Returns the place of rank 0 on a cluster, for checks that are made before its ranks exist."""
    return RankInfo(
        rank=0,
        local_rank=0,
        world_size=world_size,
        local_world_size=local_world_size,
        node_rank=0,
        master_addr="",
        master_port=0,
        launcher="srun" if world_size > 1 else "none",
    )


def read_torchrun_variables(environ: Mapping[str, str]) -> RankInfo:
    """Reads torchrun's variables, which lehr's own launcher sets too. Raises UserError if one is missing or wrong.

    The error is an AddressError if the rank itself is known.
    """
    rank = read_int(environ, "RANK")
    missing = [name for name in _REQUIRED if name not in environ]
    if missing:
        raise AddressError(
            f"RANK and WORLD_SIZE are set but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not: "
            "start the ranks with torchrun or srun, or unset RANK and WORLD_SIZE to let lehr start its own",
            rank=rank,
            local_rank=read_int(environ, "LOCAL_RANK", str(rank)),
        )
    parent = None
    if PARENT_PID in environ:
        parent = ParentHandles(
            pid=read_int(environ, PARENT_PID),
            report_fd=read_int(environ, REPORT_FD),
            store_fd=read_int(environ, STORE_FD) if STORE_FD in environ else None,
        )
    world_size = read_int(environ, "WORLD_SIZE", least=1)
    local_world_size = read_int(environ, "LOCAL_WORLD_SIZE", str(world_size), least=1, most=world_size)
    rank = read_int(environ, "RANK", most=world_size - 1)
    local_rank = read_int(environ, "LOCAL_RANK", most=local_world_size - 1)
    if not environ["MASTER_ADDR"].strip():
        raise AddressError(
            "MASTER_ADDR is empty: set it to the address of the first node", rank=rank, local_rank=local_rank
        )
    return RankInfo(
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        local_world_size=local_world_size,
        node_rank=read_int(environ, "GROUP_RANK", "0"),
        master_addr=environ["MASTER_ADDR"],
        master_port=read_port(environ, rank=rank, local_rank=local_rank),
        launcher="torchrun" if parent is None else "lehr",
        parent=parent,
        has_agent="TORCHELASTIC_RUN_ID" in environ and parent is None,
        agent_serves_store=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and parent is None,
    )


def torchrun_variables(rank_info: RankInfo) -> dict[str, str]:
    """Returns the variables from which `read_torchrun_variables` reads the same place."""
    values: dict[str, int | str] = {
        "RANK": rank_info.rank,
        "LOCAL_RANK": rank_info.local_rank,
        "WORLD_SIZE": rank_info.world_size,
        "LOCAL_WORLD_SIZE": rank_info.local_world_size,
        "GROUP_RANK": rank_info.node_rank,
        "MASTER_ADDR": rank_info.master_addr,
        "MASTER_PORT": rank_info.master_port,
    }
    if rank_info.parent is not None:
        values |= {PARENT_PID: rank_info.parent.pid, REPORT_FD: rank_info.parent.report_fd}
        if rank_info.parent.store_fd is not None:
            values[STORE_FD] = rank_info.parent.store_fd
    return {name: str(value) for name, value in values.items()}


def name_ranks(ranks: Sequence[int], place: Callable[[int], str] = lambda rank: "") -> str:
    """Returns `rank 3`, `ranks 0, 1`, or the first ten and how many more there are.

    `place` returns words that follow a rank's number, such as ` on node 1`.
    """
    more = f" and {len(ranks) - _MOST_NAMED} more" if len(ranks) > _MOST_NAMED else ""
    named = ", ".join(f"{rank}{place(rank)}" for rank in ranks[:_MOST_NAMED])
    return f"rank{'s' if len(ranks) > 1 else ''} {named}{more}"


def read_int(
    environ: Mapping[str, str], name: str, default: str | None = None, *, least: int = 0, most: int = 2**63 - 1
) -> int:
    """Reads a whole number from a variable.

    Raises UserError if the variable is not set, or is no whole number from `least` to `most`.
    """
    text = environ.get(name, default)
    if text is None:
        raise UserError(f"{name} is not set")
    if re.fullmatch(r"\s*\d{1,19}\s*", text) and least <= int(text) <= most:
        return int(text)
    bounds = f"of at least {least}" if most == 2**63 - 1 else f"from {least} to {most}"
    raise UserError(f'{name} = "{text}" must be a whole number {bounds}')


def read_port(environ: Mapping[str, str], *, rank: int, local_rank: int, default: int | None = None) -> int:
    """Reads MASTER_PORT. Raises AddressError if it is not set without a `default`, and if it is no port."""
    text = environ.get("MASTER_PORT") or str(default)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 16):
        raise AddressError(
            f'MASTER_PORT = "{environ.get("MASTER_PORT", "")}" must be a whole number from 1 to 65535: '
            "set it to a port that is free on the first node",
            rank=rank,
            local_rank=local_rank,
        )
    return int(text)
