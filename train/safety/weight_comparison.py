"""The comparison of the weights that data ranks hold alike, to the bit.

A flipped bit in a memory or a link that alters what it carries makes the replicas of a weight differ. Nothing else
would show it: each data rank would go on with weights of its own.

Each rank sums the bit patterns of its weights, as integers, on its device; so it reads its weights once. One message
of 16 bytes for each pair of tensor and pipeline rank says whether the sums of the data ranks agree. The sums of single
parameters are exchanged only if they do not. A single flipped bit always changes the sum.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from parallel.engines.engine import Engine
from parallel.gather import gather_json, largest_over_world
from parallel.mesh import Mesh
from settings import RunError
from settings.differences import listed
from train.safety.rank_place import place_of_rank

_CHUNK = 1 << 20  # elements: the sum makes a copy of them in int64, which stays in the caches of a CPU
_INTEGERS = {2: torch.int16, 4: torch.int32}  # by bytes of an element
_LEAST = -(2**63)
_MOST_RANKS, _MOST_NAMES = 12, 5


class WeightsDifferError(RunError):
    """Data ranks hold different weights where they must be equal."""


@dataclass(frozen=True)
class WeightSums:
    """The sums of one rank's weights, by the names of the parameters."""

    place: str
    replica_group: int  # ranks of one group hold the same parameters: they differ in their data rank alone
    sums: Mapping[str, int]


def compare_weights(engine: Engine, mesh: Mesh, *, step: int) -> None:
    """Compares the replicas of all weights after a step. A collective of all ranks.

    Raises WeightsDifferError on every rank if any differ; it names the ranks, their nodes and the parameters.
    """
    if mesh.data.size == 1:
        return
    weights = engine.replicated_weights()
    if weights:
        sums_P = torch.stack([sum_of_bits(weight) for weight in weights.values()])
        total = int(sums_P.sum())
    else:
        sums_P, total = torch.zeros(0, dtype=torch.int64), 0
    group = mesh.pipeline.rank * mesh.tensor.size + mesh.tensor.rank
    bounds = [_LEAST] * (2 * mesh.tensor.size * mesh.pipeline.size)
    bounds[2 * group : 2 * group + 2] = [total, ~total]  # the largest ~x is the complement of the smallest x
    largest = largest_over_world(bounds)
    if all(high == ~complement for high, complement in zip(largest[::2], largest[1::2], strict=True)):
        return
    mine = WeightSums(place_of_rank(mesh), group, dict(zip(weights, sums_P.tolist(), strict=True)))
    everyone = [WeightSums(**found) for found in gather_json(asdict(mine))]
    raise WeightsDifferError(
        f"after step {step} data ranks hold different weights, which must be equal to the bit:\n"
        f"{listed(describe_differences(everyone), most=_MOST_RANKS)}\n"
        "a memory, a GPU or a link has altered them, or a kernel is not deterministic. No checkpoint has such weights: "
        "start again without that node or GPU, and the run goes on from its last checkpoint"
    )


def sum_of_bits(weight: Tensor) -> Tensor:
    """Returns the sum of the elements' bit patterns as a scalar in int64, which wraps around, on the same device."""
    patterns = weight.detach().flatten().view(_INTEGERS[weight.element_size()])
    return torch.stack([chunk.sum(dtype=torch.int64) for chunk in patterns.split(_CHUNK)]).sum()


def describe_differences(everyone: Sequence[WeightSums]) -> list[str]:
    """Returns a line for each rank that differs from the majority of its group, with the names of the parameters.

    Where there is no majority, as with two data ranks, a line names all ranks of the group.
    """
    groups: dict[int, list[WeightSums]] = defaultdict(list)
    for one in everyone:
        groups[one.replica_group].append(one)
    lines = []
    for group in groups.values():
        differing: dict[str, list[str]] = defaultdict(list)  # place -> names
        undecided = []
        for name in group[0].sums:
            value, count = Counter(one.sums[name] for one in group).most_common(1)[0]
            if 2 * count <= len(group):
                undecided.append(name)
                continue
            for one in group:
                if one.sums[name] != value:
                    differing[one.place].append(name)
        lines += [f"{place} differs from the majority in {_names(names)}" for place, names in differing.items()]
        if undecided:
            places = " and ".join(one.place for one in group)
            lines.append(f"{places} differ from each other, without a majority, in {_names(undecided)}")
    return lines


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
