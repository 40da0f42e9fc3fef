"""Norms over the last dim. Statistics in fp32 whatever the dtype of the input.

Shapes: `...D` any leading dims and D features (hidden_size, or the head size for QK-norm).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from settings import Registry, Settings


class NormConfig(Settings):
    """What every norm has."""

    name: str
    eps: float = Field(1e-5, gt=0)

    def build(self, size: int, *, bias: bool, scale: float = 1.0) -> nn.Module:
        """A module [..., size] -> [..., size] of the same dtype: normalise, times `weight`, plus `bias`, times `scale`.

        `scale` is a constant (LayerNorm Scaling's 1/sqrt(l)), not a parameter. A norm that has no bias ignores `bias`.
        """
        raise AssertionError(f"{type(self).__name__} has no build")


NORMS = Registry("norm", room="model", base=NormConfig)


class RMSNorm(nn.Module):
    """y = scale · weight · x / sqrt(mean(x²) + eps) (arXiv 1910.07467)."""

    def __init__(self, size: int, *, eps: float, scale: float) -> None:
        super().__init__()
        self.eps = eps
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        wide = _at_least_fp32(x)
        gain = _at_least_fp32(self.weight) * self.scale
        return nn.functional.rms_norm(wide, self.weight.shape, gain, self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    """y = scale · (weight · (x - mean(x)) / sqrt(var(x) + eps) + bias) (arXiv 1607.06450)."""

    def __init__(self, size: int, *, eps: float, scale: float, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        wide = _at_least_fp32(x)
        gain = _at_least_fp32(self.weight) * self.scale
        shift = None if self.bias is None else _at_least_fp32(self.bias) * self.scale
        return nn.functional.layer_norm(wide, self.weight.shape, gain, shift, self.eps).to(x.dtype)


@NORMS.register
class RMSNormConfig(NormConfig):
    name: Literal["rmsnorm"] = "rmsnorm"

    def build(self, size: int, *, bias: bool, scale: float = 1.0) -> nn.Module:
        return RMSNorm(size, eps=self.eps, scale=scale)


@NORMS.register
class LayerNormConfig(NormConfig):
    name: Literal["layernorm"] = "layernorm"

    def build(self, size: int, *, bias: bool, scale: float = 1.0) -> nn.Module:
        return LayerNorm(size, eps=self.eps, scale=scale, bias=bias)


def _at_least_fp32(x: Tensor) -> Tensor:
    """x itself in fp32 or fp64, else x in fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
