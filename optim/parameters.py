"""A parameter as an optimizer sees it, its optimizer state, and collectives over the ranks that hold its shards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


class TensorRanks(Protocol):
    """Collectives over the tensor-parallel ranks that hold the shards of one matrix.

    Every rank makes the same calls in the same order.
    """

    tp_size: int
    rank: int

    def sum(self, x: Tensor) -> Tensor:
        """Returns the element-wise sum over the ranks. It may overwrite `x`."""
        ...

    def gather(self, x: Tensor, dim: int) -> Tensor:
        """Returns the full tensor, concatenated from the shards along `dim`, on every rank."""
        ...

    def reshard(self, x: Tensor, *, have: int, want: int) -> Tensor:
        """Turns a shard along dim `have` into a shard along dim `want` (an all-to-all)."""
        ...


class OneRank:
    """TensorRanks without tensor parallelism: this rank holds every matrix in full."""

    tp_size = 1
    rank = 0

    def sum(self, x: Tensor) -> Tensor:
        return x

    def gather(self, x: Tensor, dim: int) -> Tensor:
        return x

    def reshard(self, x: Tensor, *, have: int, want: int) -> Tensor:
        return x


@dataclass
class Param:
    """One parameter as this rank holds it, in fp32. `weight` is updated in place; `grad` is set before each step."""

    name: str  # global: layers.3.attention.q.weight
    weight: Tensor
    shape: tuple[int, ...]  # of the full parameter; `weight` and `grad` have the shard's
    dim: int | None = None  # the dim sharded over the tensor ranks; None: each rank holds the full parameter
    grad: Tensor | None = field(default=None, repr=False)
    # Whether this rank counts it in a sum over all ranks of the run: of those that update the same values, one does.
    counted: bool = True
    # Under ZeRO 2 and 3 `weight` is a flat range of the shard: the range's first element. Otherwise 0.
    start: int = 0


@dataclass
class StateTensor:
    """One tensor of optimizer state. `dim` is the dim sharded over the tensor ranks, or None, as in Param."""

    tensor: Tensor
    dim: int | None = None
    # Whether it has one element for each of the weight's, in the weight's own basis: a moment, but no rotated one.
    per_weight: bool = False


def positions_in_full(param: Param, indices: Tensor, ranks: TensorRanks) -> Tensor:
    """Returns the positions in the flattened full parameter of elements of `param.weight`, by their flat indices."""
    local = indices + param.start
    if param.dim is None:
        return local
    inner, rows = math.prod(param.shape[param.dim + 1 :]), param.shape[param.dim]
    rows_here = rows // ranks.tp_size
    outer, row, column = local // (rows_here * inner), local // inner % rows_here, local % inner
    return (outer * rows + ranks.rank * rows_here + row) * inner + column


def runs_in_memory(*lists: Sequence[Tensor | None]) -> list[slice]:
    """Returns the slices of parallel lists whose tensors follow each other in memory without a gap, in every list."""
    runs: list[slice] = []
    for number in range(len(lists[0])):
        goes_on = number > 0 and all(_follows(tensors[number - 1], tensors[number]) for tensors in lists)
        start = runs.pop().start if goes_on else number
        runs.append(slice(start, number + 1))
    return runs


def flat_view(run: Sequence[Tensor]) -> Tensor:
    """Returns tensors that follow each other in memory without a gap as one flat tensor: a view."""
    return run[0].detach().as_strided((sum(tensor.numel() for tensor in run),), (1,))


def _follows(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None or first.dtype != second.dtype or first.device != second.device:
        return False
    return (
        first.is_contiguous()
        and second.is_contiguous()
        and first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
        and first.storage_offset() + first.numel() == second.storage_offset()
    )
