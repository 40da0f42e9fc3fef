"""The process groups are used before the first step: their times, and groups that are slow or fail."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from typing import Any

import pytest
import torch.distributed as dist
from processes import RanksFailedError, run_ranks

from parallel import group_check
from parallel.config import ParallelConfig
from parallel.group_check import GroupCheck, GroupSpeed, check_groups
from parallel.mesh import make_mesh

HOST = socket.gethostname()


def checked(parallel: dict[str, Any], fault: str = "") -> GroupCheck:
    """Checks the groups; rank 3 has a fault in its tensor group."""
    mesh = make_mesh(ParallelConfig(**parallel), timeout_seconds=60)
    all_reduce = dist.all_reduce

    def faulty(*arguments: Any, group: dist.ProcessGroup, **keywords: Any) -> Any:
        if mesh.rank == 3 and group is mesh.tensor.group:
            if fault == "dies":
                os._exit(9)
            time.sleep(1.0)
        return all_reduce(*arguments, group=group, **keywords)

    if fault:
        group_check.dist.all_reduce = faulty  # type: ignore[assignment]
    return check_groups(mesh)


def test_every_group_is_measured_once_and_known_to_all() -> None:
    found = run_ranks(4, checked, {"tensor": 2})
    assert found == [found[0]] * 4
    assert {(speed.axis, speed.ranks) for speed in found[0].speeds} == {
        ("world", (0, 1, 2, 3)),
        ("tensor", (0, 1)),
        ("tensor", (2, 3)),
        ("data", (0, 2)),
        ("data", (1, 3)),
    }
    assert all(speed.seconds > 0 for speed in found[0].speeds)
    assert found[0].nodes == (HOST,) * 4
    tensor = found[0].record()["tensor"]
    assert (tensor["groups"], tensor["ranks"]) == (2, 2)
    assert tensor["slowest_ranks"] in ([0, 1], [2, 3])


def test_a_single_rank_has_no_groups_to_check() -> None:
    (found,) = run_ranks(1, checked, {})
    assert (found.speeds, found.record(), found.warnings()) == ((), {}, [])


def test_a_slow_group_is_named() -> None:
    found = run_ranks(4, checked, {"tensor": 2}, "slow")[0]
    assert any(
        line.startswith(f"the tensor group of ranks 2, 3 on node {HOST} takes ")
        and "for a sum of 0.0625 MiB, the median tensor group " in line
        for line in found.warnings()
    )
    assert not any("ranks 0, 1 on" in line for line in found.warnings())


def test_a_group_that_fails_is_named_with_its_nodes() -> None:
    wanted = f"RunError: the tensor group of ranks 2, 3 on node {HOST} cannot sum over its ranks: .*by peer"
    with pytest.raises(RanksFailedError, match=wanted):
        run_ranks(4, checked, {"tensor": 2}, "dies")


def test_slow_means_ten_times_the_median_of_the_same_axis() -> None:
    speeds = [GroupSpeed("data", (rank, rank + 4), 16 << 20, 0.001) for rank in range(4)]
    speeds.append(GroupSpeed("tensor", (0, 1), 16 << 20, 1.0))
    nodes = ("a",) * 4 + ("b",) * 4
    check = GroupCheck(nodes, tuple(speeds), 0.0)
    assert check.warnings() == []
    speeds[2] = replace(speeds[2], seconds=0.0101)
    assert GroupCheck(nodes, tuple(speeds), 0.0).warnings() == [
        "the data group of ranks 2, 6 on nodes a, b takes 10.1 ms for a sum of 16 MiB, the median data group 1 ms: "
        "check its network and GPUs"
    ]
    assert GroupCheck(nodes, tuple(speeds), 0.25).warnings() == []


def test_bandwidth_is_that_of_a_ring() -> None:
    """In a ring of 4, each link carries 3/4 of the tensor twice."""
    assert GroupSpeed("data", (0, 1, 2, 3), 400, 2.0).bandwidth == pytest.approx(2 * 300 / 2.0)
