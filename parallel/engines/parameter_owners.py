"""The assignment of parameters to owner ranks, and the order in which owners update and send them.

Conda, AdamP and Muon need full matrices, which ZeRO's flat partitions would split. Here each data rank owns complete
parameters: optimizer state is sharded over the data ranks as with ZeRO 1, and an update equals that of one process.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from parallel.parameter_shards import ParameterShard


def assign_owners(costs: Sequence[float], owner_count: int) -> list[int]:
    """Returns an owner rank for each parameter, so that the largest sum of costs is small.

    The costliest parameter goes first, to the owner with the least load (Graham 1969). Ties go to the lower index, so
    every rank computes the same assignment.
    """
    loads = [(0.0, owner) for owner in range(owner_count)]
    owners = [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, owner = heapq.heappop(loads)
        owners[index] = owner
        heapq.heappush(loads, (load + costs[index], owner))
    return owners


def update_order(shards: Sequence[ParameterShard], costs: Sequence[float]) -> list[int]:
    """Returns the indices of the shards in the order in which owners lay them out, update them and send them.

    Parameters that cost little per element come first, the large ones of them before the small: their buckets are large
    for the work they take, and are sent behind the work on the rest. The last bucket, which no work hides, is small.
    Equal shapes stand together, since optimizers update them together.
    """

    def key(index: int) -> tuple[float, int, tuple[int, ...], int, int]:
        shard = shards[index]
        size = math.prod(shard.shape)
        return costs[index] / size, -size, shard.shape, -1 if shard.dim is None else shard.dim, index

    return sorted(range(len(shards)), key=key)
