"""What torch's flight recorder says of the collectives of real ranks, and of NCCL's in its format."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import run_ranks

from parallel import flight_recorder
from parallel.config import ParallelConfig
from parallel.flight_recorder import Collective, GroupProgress, group_progress, progress_of
from parallel.mesh import make_mesh


def progress_while_rank_2_is_late() -> list[GroupProgress]:
    """Data groups are ranks 0, 2 and 1, 3. Rank 2 misses the second sum of its data group, and then joins it."""
    mesh = make_mesh(ParallelConfig(tensor=2), timeout_seconds=60)
    value = torch.zeros(3, 2)
    dist.all_reduce(value, group=mesh.tensor.group)
    dist.all_reduce(value, group=mesh.data.group)
    if mesh.rank != 2:
        late = dist.all_reduce(value, group=mesh.data.group, async_op=True)
        if mesh.rank != 0:
            late.wait()
    dist.barrier()
    ended = {"tensor": 1, "data": 1 if mesh.rank == 0 else 2}
    deadline = time.monotonic() + 30  # what has ended is noted in another thread, a moment later
    while time.monotonic() < deadline:
        found = [one for one in group_progress() if one.name in ended]
        if all(one.pending is None or one.pending.number > ended[one.name] for one in found):
            break
        time.sleep(0.01)
    found = group_progress()
    dist.barrier()
    if mesh.rank == 2:
        late = dist.all_reduce(value, group=mesh.data.group, async_op=True)
    late.wait()
    return found


def test_progress_says_what_was_joined_and_what_has_not_ended() -> None:
    found = [{one.name: one for one in progress} for progress in run_ranks(4, progress_while_rank_2_is_late)]
    second = Collective(number=2, name="all_reduce", shapes="[[3, 2]]")
    first = second.model_copy(update={"number": 1})
    for rank, (tensor, data) in enumerate((progress["tensor"], progress["data"]) for progress in found):
        assert tensor.last == first
        assert tensor.pending is None
        assert tensor.ranks == [rank - rank % 2, rank - rank % 2 + 1]
        assert data.ranks == [rank % 2, rank % 2 + 2]
        assert data.last == (first if rank == 2 else second)
        assert data.pending == (second if rank == 0 else None)
        assert found[rank]["default_pg"].ranks == [0, 1, 2, 3]
    names = [progress["data"].group for progress in found]
    assert names[0] == names[2] != names[1] == names[3], "the members of a group know it by one name, and others do not"


def entry(number: int, name: str = "nccl:all_reduce", **other: Any) -> dict[str, Any]:
    """Returns an entry as NCCL's recorder has it, of a collective that has ended."""
    return {
        "process_group": ("0", "default_pg"),
        "profiling_name": name,
        "collective_seq_id": number,
        "input_sizes": [[4]],
        "is_p2p": False,
        "retired": True,
        "state": "completed",
        **other,
    }


def test_a_gpu_that_runs_behind_the_calls_waits_in_the_first_that_has_not_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flight_recorder, "_ranks_of", lambda torch_name: [0, 1])
    waiting = {"retired": False, "state": "scheduled"}
    entries = [
        entry(7),
        entry(8, "nccl:_all_gather_base", retired=False),  # it has ended, and NCCL's thread has not seen it yet
        entry(0, "nccl:send 0->1", is_p2p=True, **waiting),
        entry(9, "nccl:_reduce_scatter_base", **{**waiting, "state": "started"}),
        entry(10, **waiting),
        entry(4, "gloo:all_gather"),
    ]
    nccl, gloo = progress_of(entries)
    assert nccl.pending == Collective(number=9, name="reduce_scatter_base", shapes="[[4]]")
    assert nccl.last == Collective(number=10, name="all_reduce", shapes="[[4]]")
    assert (gloo.last.number, gloo.pending) == (4, None)
    assert nccl.group != gloo.group


def test_a_record_of_another_form_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._C import _distributed_c10d

    for text in ("{}", "[]", "no JSON", '{"entries": [{"is_p2p": false}]}'):
        monkeypatch.setattr(_distributed_c10d, "_dump_fr_trace_json", lambda *flags, text=text: text)
        assert group_progress() == []
