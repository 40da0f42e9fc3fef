"""The process groups of the mesh: one for each set of ranks that communicates, and none besides.

gloo opens a socket to every other rank of a group, and NCCL allocates buffers on the device for each group. Megatron's
parallel_state would make 17 groups a rank, of which this code uses four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

Partition = tuple[tuple[int, ...], ...]  # disjoint sets of ranks, each of which becomes a group


def partitions(*, tensor: int, data: int, pipeline: int) -> dict[str, Partition]:
    """Returns for each axis the ranks that communicate along it: rank = tensor + T · (data + D · pipeline).

    `embedding`: the first and the last stage of each pipeline. It is missing if there is only one stage.
    """
    ranks_PDT = torch.arange(pipeline * data * tensor).view(pipeline, data, tensor)
    parts = {
        "tensor": ranks_PDT.reshape(-1, tensor),
        "data": ranks_PDT.transpose(1, 2).reshape(-1, data),
        "pipeline": ranks_PDT.permute(1, 2, 0).reshape(-1, pipeline),
    }
    if pipeline > 1:
        parts["embedding"] = parts["pipeline"][:, [0, -1]]
    return {name: tuple(map(tuple, ranks.tolist())) for name, ranks in parts.items()}


def make_groups(named: Mapping[str, Partition], *, timeout_seconds: float) -> dict[str, dist.ProcessGroup | None]:
    """Makes this rank's group of each partition; None where the rank is in none of its sets. A collective.

    The process group of all ranks must exist. Equal partitions share their groups, and all ranks are the first group.
    A partition that leaves out ranks must come last, because torch numbers the groups of a rank.
    """
    made: dict[Partition, dist.ProcessGroup | None] = {(tuple(range(dist.get_world_size())),): dist.group.WORLD}
    for name, partition in named.items():
        if partition not in made:
            made[partition] = _make_group(name, partition, timedelta(seconds=timeout_seconds))
    return {name: made[partition] for name, partition in named.items()}


def _make_group(name: str, partition: Sequence[Sequence[int]], timeout: timedelta) -> dist.ProcessGroup | None:
    if torch.cuda.is_available():
        # One ncclCommSplit for all sets: new_group would make every rank take part in one for each set.
        split = [list(ranks) for ranks in partition]
        return dist.split_group(split_ranks=split, timeout=timeout, group_desc=name, backend="cuda:nccl")
    mine = next((list(ranks) for ranks in partition if dist.get_rank() in ranks), None)
    if mine is None:
        return None
    group: dist.ProcessGroup = dist.new_group(
        mine, timeout=timeout, backend="gloo", use_local_synchronization=True, group_desc=name
    )
    return group
