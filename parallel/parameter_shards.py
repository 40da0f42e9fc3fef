"""This rank's shard of every parameter, from what the model declares and the layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.parameter import spec_of
from parallel.mesh import Axis

_SAMPLE = 1024  # elements of each tensor that the tensor ranks compare
# Full parameters are computed by every tensor rank alike, but sums over data ranks may round in another order there.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ParameterShard:
    """One parameter as this rank holds it."""

    name: str  # global
    parameter: nn.Parameter
    shape: tuple[int, ...]  # of the full parameter
    dim: int | None  # the dim sharded over the tensor axis; None: each tensor rank holds the full parameter
    partial: bool  # each tensor rank's gradient is a part of the sum
    copy: bool  # another stage holds the original (a tied embedding's copy beside the head)


def parameter_shards(
    transformers: Sequence[nn.Module], tensor: Axis, *, sequence: bool, holds_tied_copy: bool
) -> tuple[ParameterShard, ...]:
    """Returns all parameters of this rank's chunks, in a fixed order. AssertionError for one without declaration.

    `holds_tied_copy`: the embedding here is a tied head's copy of the first stage's.
    """
    shards = []
    for transformer in transformers:
        for name, parameter in transformer.named_parameters():
            spec = spec_of(parameter, name)
            dim = spec.shard_dim if tensor.size > 1 else None
            shape = list(parameter.shape)
            if dim is not None:
                shape[dim] *= tensor.size
            summed = ("partial", "partial_along_sequence") if sequence else ("partial",)
            partial = tensor.size > 1 and dim is None and spec.gradient in summed
            copy = holds_tied_copy and name == "embedding.weight"
            shards.append(ParameterShard(name, parameter, tuple(shape), dim, partial, copy))
    return tuple(shards)


def shard_of(full: Tensor, dim: int | None, axis: Axis) -> Tensor:
    """Returns this rank's shard along `dim` of a full tensor, or the tensor itself if `dim` is None."""
    return full if dim is None else full.chunk(axis.size, dim)[axis.rank]


def assert_full_parameters_agree(full: Mapping[str, Tensor], tensor: Axis, device: torch.device) -> None:
    """Compares what every tensor rank holds in full. A collective of the tensor ranks, of a few kilobytes a tensor.

    A module that makes a sharded parameter and does not declare it trains as it should, and the first tensor rank's
    shard would be saved as the full parameter: AssertionError with the names and the largest differences.
    """
    if tensor.size == 1 or not full:
        return
    samples = {name: _sample(weight).to(device, torch.float32) for name, weight in full.items()}
    flat = torch.cat(list(samples.values()))
    bounds = torch.stack((flat, -flat))
    dist.all_reduce(bounds, op=dist.ReduceOp.MAX, group=tensor.group)
    spreads = (bounds[0] + bounds[1]).cpu().split([len(sample) for sample in samples.values()])
    sizes = bounds.amax(0).cpu().split([len(sample) for sample in samples.values()])
    differing = [
        f"{name} by {float(spread.max()):.2g}"
        for name, spread, size in zip(samples, spreads, sizes, strict=True)
        if spread.max() > _TOLERANCE * size.max()
    ]
    assert not differing, (
        "these parameters are declared as full, and differ between the tensor ranks: "
        f"{', '.join(differing)}; declare the sharded dim where they are made (Layers.vector(..., sharded=True))"
    )


def _sample(weight: Tensor) -> Tensor:
    """Returns elements at even distances."""
    flat = weight.detach().flatten()
    return flat[:: -(-len(flat) // _SAMPLE)]
