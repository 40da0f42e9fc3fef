"""Uses each process group before the first step: one that fails or is slow is known by its ranks and nodes.

NCCL connects the ranks of a group when it is first used. A link that does not work would else show up as a hang within
the first step, and a slow one not at all.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from parallel.gather import gather_json
from parallel.mesh import Mesh
from settings import RunError

_SLOW_FACTOR = 10.0  # times the median of the groups of one axis
_REPEATS = 3
_BYTES = {"cuda": 16 << 20, "cpu": 64 << 10}  # of one sum: on a GPU, enough to measure the network
_LEAST_SLOW_SECONDS = {"cuda": 0.0, "cpu": 0.25}  # ranks on a CPU share its cores: less is no matter of the network


@dataclass(frozen=True)
class GroupSpeed:
    """The time of one all-reduce in one process group."""

    axis: str  # tensor, data, pipeline, embedding, or world for the group of all ranks
    ranks: tuple[int, ...]
    size: int  # in bytes, of the tensor that is summed
    seconds: float

    @property
    def bandwidth(self) -> float:
        """Bytes per second over the slowest link, which an all-reduce in a ring uses 2 (n - 1) / n times the size."""
        return 2 * (len(self.ranks) - 1) / len(self.ranks) * self.size / self.seconds


@dataclass(frozen=True)
class GroupCheck:
    """The groups of a run, measured; the same on every rank."""

    nodes: tuple[str, ...]  # the host name of each rank
    speeds: tuple[GroupSpeed, ...]
    least_slow_seconds: float  # a group that is faster is not slow

    def warnings(self) -> list[str]:
        """Returns a line for each group that is ten times as slow as the median of its axis."""
        return [line for axis in self._axes() for line in self._warnings(axis)]

    def record(self) -> dict[str, dict[str, float | list[int]]]:
        """Returns by axis what a run records of its groups: their number and size, bandwidths, and the slowest one."""
        found: dict[str, dict[str, float | list[int]]] = {}
        for axis in self._axes():
            speeds = self._of_axis(axis)
            slowest = max(speeds, key=lambda speed: speed.seconds)
            found[axis] = {
                "groups": len(speeds),
                "ranks": len(slowest.ranks),
                "median_gb_per_second": round(statistics.median(speed.bandwidth for speed in speeds) / 1e9, 3),
                "slowest_gb_per_second": round(slowest.bandwidth / 1e9, 3),
                "slowest_ranks": list(slowest.ranks),
            }
        return found

    def _axes(self) -> list[str]:
        return list(dict.fromkeys(speed.axis for speed in self.speeds))

    def _of_axis(self, axis: str) -> list[GroupSpeed]:
        return [speed for speed in self.speeds if speed.axis == axis]

    def _warnings(self, axis: str) -> list[str]:
        speeds = self._of_axis(axis)
        median = statistics.median_low([speed.seconds for speed in speeds])
        return [
            f"{_name(axis, speed.ranks, self.nodes)} takes {1e3 * speed.seconds:.3g} ms for a sum of "
            f"{speed.size / 2**20:.3g} MiB, the median {axis} group {1e3 * median:.3g} ms: check its network and GPUs"
            for speed in speeds
            if speed.seconds > max(_SLOW_FACTOR * median, self.least_slow_seconds)
        ]


def check_groups(mesh: Mesh) -> GroupCheck:
    """Sums a tensor over each group of this rank, and returns the times in all groups. A collective.

    Raises RunError, with the ranks and nodes of the group, if a group fails.
    """
    nodes = tuple(gather_json(socket.gethostname()))
    mine: dict[tuple[int, ...], tuple[str, float]] = {}
    for axis, group in _groups(mesh).items():
        ranks = tuple(dist.get_process_group_ranks(group)) if group is not None else ()
        if len(ranks) > 1 and ranks not in mine:
            mine[ranks] = axis, _all_reduce_seconds(axis, ranks, group, nodes, mesh.device)
    everyone = gather_json([[axis, ranks, seconds] for ranks, (axis, seconds) in mine.items()])
    return GroupCheck(nodes, _join(everyone, mesh.device), _LEAST_SLOW_SECONDS[mesh.device.type])


def _groups(mesh: Mesh) -> dict[str, dist.ProcessGroup | None]:
    axes = {"tensor": mesh.tensor, "data": mesh.data, "pipeline": mesh.pipeline}
    groups: dict[str, dist.ProcessGroup | None] = {"world": dist.group.WORLD}
    return groups | {name: axis.group for name, axis in axes.items()} | {"embedding": mesh.embedding}


def _all_reduce_seconds(
    axis: str, ranks: Sequence[int], group: dist.ProcessGroup | None, nodes: Sequence[str], device: torch.device
) -> float:
    """Returns the shortest time of a few, since other work delays a sum now and then.

    The first sum is left out: in it the ranks connect, and wait for each other.
    """
    value = torch.zeros(_BYTES[device.type] // 4, device=device)
    times = []
    try:
        for _ in range(1 + _REPEATS):
            began = time.perf_counter()
            dist.all_reduce(value, group=group)
            value[0].item()  # waits for a GPU
            times.append(time.perf_counter() - began)
    except RuntimeError as error:
        raise RunError(f"{_name(axis, ranks, nodes)} cannot sum over its ranks: {error}") from error
    return min(times[1:])


def _join(found: Sequence[Sequence[tuple[str, list[int], float]]], device: torch.device) -> tuple[GroupSpeed, ...]:
    """Joins what the ranks found: the time of a group is that of its slowest rank."""
    slowest: dict[tuple[str, tuple[int, ...]], float] = {}
    for axis, ranks, seconds in (one for rank in found for one in rank):
        key = axis, tuple(ranks)
        slowest[key] = max(seconds, slowest.get(key, 0.0))
    size = _BYTES[device.type]
    return tuple(GroupSpeed(axis, ranks, size, seconds) for (axis, ranks), seconds in slowest.items())


def _name(axis: str, ranks: Sequence[int], nodes: Sequence[str]) -> str:
    hosts = dict.fromkeys(nodes[rank] for rank in ranks)
    shown = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    named = ", ".join(list(hosts)[:8]) + (f" and {len(hosts) - 8} more" if len(hosts) > 8 else "")
    return f"the {axis} group of ranks {shown} on node{'s' if len(hosts) > 1 else ''} {named}"
