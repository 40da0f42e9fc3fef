"""Squared norms and dot products of many float32 elements, with an error that does not grow with their number.

On a CPU, torch's norm and dot of one tensor add all elements into a few float32 accumulators. What is added late is
rounded away: the norm of 39 million normal numbers is 2.7e-3 too small (benchmarks/gradient_norm.md). So a CPU adds up
short blocks here, and the sums of the blocks are added in float64. torch's CUDA kernels add up blocks by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

# Elements of a block. A dot product takes one call for each block, a norm takes one call for all.
_NORM_BLOCK = 1024
_DOT_BLOCK = 1 << 16


def squared_norms(x: Tensor) -> Tensor:
    """Returns the squared norm of each row, in float64: [..., n] -> [...]."""
    size = x.shape[-1]
    if x.device.type != "cpu" or size <= _NORM_BLOCK:
        norms: Tensor = torch.linalg.vector_norm(x, dim=-1)
        return norms.double().square()
    end = size - size % _NORM_BLOCK
    blocks = x[..., :end].unflatten(-1, (-1, _NORM_BLOCK))
    squares: Tensor = torch.linalg.vector_norm(blocks, dim=-1).double().square().sum(-1)
    return squares if end == size else squares + squared_norms(x[..., end:])


def sum_of_squares(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Returns the sum of the squares of all elements of all tensors, which are on `device`, as a scalar in float64."""
    if not tensors:
        return torch.zeros((), dtype=torch.float64, device=device)
    if device.type != "cpu":
        # Of a large tensor this is one kernel; torch._foreach_norm launches one for each 21 million elements.
        norms: list[Tensor] = [torch.linalg.vector_norm(tensor) for tensor in tensors]
        return reduce(torch.add, [norm.double().square() for norm in norms])
    return torch.stack([squared_norms(tensor.flatten()) for tensor in tensors]).sum()


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Returns the dot product of two vectors [n], n > 0, as a scalar in float64."""
    block = _DOT_BLOCK if a.device.type == "cpu" else len(a)
    return torch.stack([torch.dot(*pair) for pair in zip(a.split(block), b.split(block), strict=True)]).double().sum()
