"""What of the whole model this rank holds: the cut of every parameter, and how its gradient adds up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from parallel.mesh import Axis

# Inside attention, between the cut q, k, v and the cut output: each tensor rank sees its own heads only.
_WITHIN_HEADS = re.compile(r"^layers\.\d+\.attention\.\w+_norm\.")
# Outside the cut matrices, where sequence parallelism gives each tensor rank its slice of the sequence only.
_ALONG_SEQUENCE = re.compile(r"^(layers\.|final_norm\.)")


@dataclass(frozen=True)
class Shard:
    """One parameter as this rank holds it."""

    name: str  # global
    parameter: nn.Parameter
    shape: tuple[int, ...]  # of the whole parameter
    dim: int | None  # the dim cut over the tensor axis; None: each tensor rank holds it whole
    partial: bool  # each tensor rank's gradient is a part of the sum
    copy: bool  # another stage holds the original (a tied embedding's copy beside the head)


def shards_of(
    transformers: Sequence[nn.Module], tensor: Axis, *, sequence: bool, holds_tied_copy: bool
) -> tuple[Shard, ...]:
    """All parameters of this rank's chunks, in a fixed order.

    `holds_tied_copy`: the embedding here is a tied head's copy of the first stage's.
    """
    shards = []
    for transformer in transformers:
        for name, parameter in transformer.named_parameters():
            dim = getattr(parameter, "partition_dim", None) if tensor.size > 1 else None
            shape = list(parameter.shape)
            if dim is not None:
                shape[dim] *= tensor.size
            partial = (
                tensor.size > 1
                and dim is None
                and bool(_WITHIN_HEADS.match(name) or (sequence and _ALONG_SEQUENCE.match(name)))
            )
            copy = holds_tied_copy and name.startswith("embedding.")
            shards.append(Shard(name, parameter, tuple(shape), dim, partial, copy))
    return tuple(shards)


def slice_of(whole: Tensor, dim: int | None, axis: Axis) -> Tensor:
    """This rank's slice of a whole tensor cut along `dim`."""
    return whole if dim is None else whole.chunk(axis.size, dim)[axis.rank]
