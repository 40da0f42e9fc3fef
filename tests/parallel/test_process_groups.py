"""The process groups of the mesh: who is in them, how many there are, and how many sockets they open."""

from __future__ import annotations

import itertools
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import run_ranks

from parallel.config import ParallelConfig
from parallel.mesh import make_mesh, start_processes, stop_processes
from parallel.process_groups import _make_group, partitions


@pytest.mark.parametrize(("tensor", "data", "pipeline"), [(1, 1, 1), (2, 3, 4), (8, 1, 2), (1, 5, 1)])
def test_ranks_of_a_set_differ_in_one_coordinate_only(tensor: int, data: int, pipeline: int) -> None:
    found = partitions(tensor=tensor, data=data, pipeline=pipeline)
    coordinates = {
        t + tensor * (d + data * p): {"tensor": t, "data": d, "pipeline": p}
        for t, d, p in itertools.product(range(tensor), range(data), range(pipeline))
    }
    for axis in ("tensor", "data", "pipeline"):
        assert sorted(itertools.chain(*found[axis])) == list(range(tensor * data * pipeline))
        for ranks in found[axis]:
            places = [coordinates[rank] for rank in ranks]
            assert [place[axis] for place in places] == list(range(len(places)))
            assert all(place | {axis: 0} == places[0] for place in places)
    ends = tuple((ranks[0], ranks[-1]) for ranks in found["pipeline"])
    assert found.get("embedding", ()) == (ends if pipeline > 1 else ())


def sockets() -> int:
    links = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(path.readlink()))
        except OSError:  # the descriptor by which the folder itself was read
            continue
    return sum(link.startswith("socket:") for link in links)


def groups_and_sockets(parallel: ParallelConfig) -> tuple[dict[str, list[int]], int]:
    dist.barrier()
    known, before = set(dist.distributed_c10d._world.pg_map), sockets()
    mesh = make_mesh(parallel, timeout_seconds=60)
    more = sockets() - before
    total = torch.ones(1)
    for group in (mesh.tensor.group, mesh.data.group, mesh.pipeline.group, mesh.embedding):
        if group is not None:
            dist.all_reduce(total, group=group)
    assert total == mesh.world_size * (2 if mesh.embedding is not None else 1)
    made = set(dist.distributed_c10d._world.pg_map) - known
    return {group.group_desc: dist.get_process_group_ranks(group) for group in made}, more


def test_a_rank_makes_a_group_for_each_set_of_ranks_and_no_other() -> None:
    """Megatron's parallel_state makes 17 groups here, and opens 45 sockets."""
    for rank, (groups, more) in enumerate(run_ranks(8, groups_and_sockets, ParallelConfig(tensor=2, pipeline=2))):
        first, stage = rank - rank % 2, rank // 4
        assert groups == {
            "tensor": [first, first + 1],
            "data": [4 * stage + rank % 2, 4 * stage + rank % 2 + 2],
            "pipeline": [rank % 4, rank % 4 + 4],  # with two stages, it is the embedding group too
        }
        assert more <= 2 * len(groups)  # a connection to the other rank, and a socket that listens


def test_the_inner_stages_are_in_no_embedding_group() -> None:
    found = [groups for groups, _ in run_ranks(4, groups_and_sockets, ParallelConfig(pipeline=4))]
    assert [groups.get("embedding") for groups in found] == [[0, 3], None, None, [0, 3]]
    assert [groups["tensor"] for groups in found] == [[0], [1], [2], [3]]  # that of the data axis too
    assert all("data" not in groups and "pipeline" not in groups for groups in found)  # the group of all ranks serves


def test_all_ranks_are_one_group() -> None:
    assert run_ranks(1, groups_and_sockets, ParallelConfig()) == [({}, 0)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_group_on_a_gpu_is_nccls_alone() -> None:
    start_processes(rank=0, world_size=1, gpu=0, timeout_seconds=60, store=dist.HashStore())
    try:
        group = _make_group("tensor", ((0,),), timedelta(seconds=60))
        assert group is not None
        total = torch.full((1,), 3.0, device="cuda")
        dist.all_reduce(total, group=group)
        assert total.item() == 3.0
        with pytest.raises(RuntimeError):
            dist.all_reduce(torch.ones(1), group=group)
    finally:
        stop_processes()
