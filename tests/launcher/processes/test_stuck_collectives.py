"""Which collective is stuck, and who did not join it: told from the reports of real ranks, and of made-up ones."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist
from processes import run_ranks

from launcher.processes.stuck_collectives import explain_collectives
from parallel.config import ParallelConfig
from parallel.flight_recorder import Collective, GroupProgress, group_progress
from parallel.mesh import make_mesh


def wait_until_all_pend(ranks: list[int]) -> None:
    """Waits until the other ranks have begun what they will hang in; the store needs no collective."""
    store = dist.distributed_c10d._get_default_store()
    store.set(f"begun/{dist.get_rank()}", "")
    store.wait([f"begun/{rank}" for rank in ranks])


def progress_of_a_hang(kind: str) -> list[GroupProgress]:
    """Tensor ranks are 0, 1 and 2, 3; data ranks are 0, 2 and 1, 3. Rank 2 does not do what the others do."""
    mesh = make_mesh(ParallelConfig(tensor=2), timeout_seconds=60)
    value = torch.zeros(4)
    for _ in range(3):
        dist.all_reduce(value, group=mesh.data.group)
    if mesh.rank == 2 and kind == "other":
        dist.broadcast(value, group_src=0, group=mesh.data.group, async_op=True)
        dist.barrier(async_op=True)
    elif mesh.rank != 2:
        dist.all_reduce(value, group=mesh.data.group, async_op=True)
        if mesh.rank == 3:
            dist.all_reduce(value, group=mesh.tensor.group, async_op=True)  # which rank 2 does not come to
        elif mesh.rank == 1:
            dist.barrier(async_op=True)
    wait_until_all_pend([0, 1, 2, 3])
    # What has ended is noted in another thread, a moment later: the first three sums, and the fourth of ranks 1 and 3.
    ended = 4 if mesh.rank in (1, 3) else 3
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if all(one.pending is None or one.pending.number > ended for one in group_progress() if one.name == "data"):
            break
        time.sleep(0.01)
    return group_progress()


def test_a_rank_that_does_not_come_is_named_with_what_it_joined_last() -> None:
    reports = dict(enumerate(run_ranks(4, progress_of_a_hang, "late")))
    assert explain_collectives(reports, lambda rank: f" on node {rank // 2}").splitlines() == [
        "  all_reduce 4 of the data group: rank 0 joined; rank 2 on node 1 did not, and last joined all_reduce 3",
        "  barrier 1 of the group of all ranks: rank 1 joined; rank 2 on node 1 did not; "
        "2 more did not, and wait in another collective",
        "  all_reduce 1 of the tensor group: rank 3 joined; rank 2 on node 1 did not",
    ]
    del reports[2]  # it is stopped, and reports nothing
    assert "all_reduce 4 of the data group: rank 0 joined; rank 2 gave no answer\n" in explain_collectives(reports)


def test_ranks_that_call_different_collectives_are_named() -> None:
    reports = dict(enumerate(run_ranks(4, progress_of_a_hang, "other")))
    assert explain_collectives(reports).splitlines()[0] == (
        "  collective 4 of the data group is not the same on all ranks: all_reduce of [[4]] on rank 0; "
        "broadcast of [[4]] on rank 2"
    )


def progress(name: str, ranks: list[int], *, last: int, pending: int | None = None) -> GroupProgress:
    made = [Collective(number=number, name="all_reduce", shapes="[[8]]") for number in (last, pending) if number]
    return GroupProgress(group=f"{name} {ranks}", name=name, ranks=ranks, last=made[0], pending=(*made, None)[1])


def test_groups_that_wait_for_waiting_ranks_are_counted_only() -> None:
    """Rank 5 stands. Its data peers wait for it, their tensor peers for them, and all others for those."""
    data, tensor, all_ranks = [1, 3, 5, 7], [[0, 1], [2, 3], [6, 7]], list(range(8))
    reports = {rank: [progress("data", data, last=40, pending=38)] for rank in (1, 3, 7)}  # their GPUs run behind
    reports[5] = [progress("data", data, last=37), progress("tensor", [4, 5], last=9)]
    for first, second in tensor:
        reports[first] = [progress("tensor", [first, second], last=9, pending=9)]
        reports[second].append(progress("tensor", [first, second], last=8))
    reports[4] = [progress("default_pg", all_ranks, last=3, pending=3)]
    reports[0].append(progress("default_pg", all_ranks, last=2))
    assert explain_collectives(reports).splitlines() == [
        "  all_reduce 38 of the data group: ranks 1, 3, 7 joined; rank 5 did not, and last joined all_reduce 37",
        "  all_reduce 3 of the group of all ranks: rank 4 joined; rank 5 did not; "
        "6 more did not, and wait in another collective",
        "  3 other groups wait in consequence",
    ]


def test_a_collective_that_all_have_joined_is_a_matter_of_the_network() -> None:
    reports = {rank: [progress("tensor", [0, 1], last=6, pending=6)] for rank in (0, 1)}
    assert explain_collectives(reports) == (
        "  all_reduce 6 of the tensor group: all of its ranks joined, but it does not end"
    )


def test_ranks_that_wait_for_nothing_need_no_line() -> None:
    assert explain_collectives({0: [progress("tensor", [0, 1], last=6)], 1: []}) == ""
