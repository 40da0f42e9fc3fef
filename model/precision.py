"""Casts: fp32 for statistics and sums, and back to the dtype of the weights."""

from __future__ import annotations

import torch
from torch import Tensor


def wide_dtype(x: Tensor) -> torch.dtype:
    """Returns fp32, or fp64 for a tensor in fp64."""
    return torch.promote_types(x.dtype, torch.float32)


def at_least_fp32(x: Tensor) -> Tensor:
    """Returns x itself if it is fp32 or fp64, else x in fp32."""
    return cast(x, wide_dtype(x))


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns x in `dtype`, and without any operation x itself if that is its dtype.

    Under torch 2.11, torch.compile gives an autograd.Function a gradient of zero if its forward pass returns a tensor
    that another operation returned before: the result of a cast that changes nothing, or of an in-place operation
    (pytorch/pytorch issue 180642). tests/test_autograd_functions.py holds that none of ours does.
    """
    return x if x.dtype == dtype else x.to(dtype)
