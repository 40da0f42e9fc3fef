"""Norms over the last dim. Statistics in fp32 whatever the dtype of the input.

Shapes: `...D` any leading dims and D features (hidden_size, or the head size for QK-norm).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from model.parameter import ParamSpec, declare
from model.precision import at_least_fp32, cast
from settings import Registry, Settings


class NormConfig(Settings):
    """The contract of a norm."""

    name: str = Field(description="Name of the norm.")
    eps: float = Field(1e-5, gt=0, description="Added to the mean square or the variance, so that no row divides by 0.")

    @property
    def statistics(self) -> int:
        """How many numbers in fp32 it keeps of each row for the backward pass."""
        return 1

    def build(self, size: int, *, bias: bool, scale: float = 1.0) -> nn.Module:
        """Builds a module [..., size] -> [..., size] that keeps the dtype, with all parameters declared.

        `scale`, which multiplies the output, is a constant (LayerNorm Scaling's 1/sqrt(l)), not a parameter: a norm
        declares it for each parameter that it may be folded into. A norm that has no bias ignores `bias`.
        """
        raise AssertionError(f"{type(self).__name__} has no build")


NORMS = Registry("norm", room="model", base=NormConfig)

# The gradient of a gain is a sum over all rows, which CPU kernels add up one after the other in fp32. Of 262,144 rows
# that is off by 1e-5 of it; blocks of these many rows bring it to 2.5e-6.
_BLOCK_ROWS = 16384


class RMSNorm(nn.Module):
    """y = scale · weight · x / sqrt(mean(x²) + eps) (arXiv 1910.07467)."""

    def __init__(self, size: int, *, eps: float, scale: float) -> None:
        super().__init__()
        self.eps = eps
        self.scale = scale
        self.weight = declare(torch.empty(size), ParamSpec(init=1.0, scale=scale))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _RMSNorm.apply(x, at_least_fp32(self.weight) * self.scale, self.eps)  # type: ignore[no-untyped-call]
        return out


class _RMSNorm(torch.autograd.Function):
    """The gradients, with r = 1 / sqrt(mean(x²) + eps) and g the gradient of y = gain · r · x:

        dx = r · (gain · g - x · r² · mean(gain · g · x)),    dgain = sum over rows of g · x · r.

    Both sums are products of one matrix, g · x, with a vector. On CPUs that takes a fifth of the time of autograd
    through torch's rms_norm (benchmarks/train_speed.md).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        wide = at_least_fp32(x)
        root = (torch.linalg.vecdot(wide, wide)[..., None] / x.shape[-1] + eps).rsqrt()
        ctx.save_for_backward(x, gain, root)
        return cast(wide * root * gain, x.dtype)  # not in place (model/precision.py)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain, root = ctx.saved_tensors
        wide, wide_grad = at_least_fp32(x), at_least_fp32(grad)
        product = wide_grad * wide
        pull = (product @ gain)[..., None] * root.pow(3) / -x.shape[-1]
        grad_x = (wide_grad * gain).mul_(root).addcmul_(wide, pull)
        return cast(grad_x, x.dtype), _weighted_sum_of_rows(root.flatten(), product.flatten(0, -2)), None


class LayerNorm(nn.Module):
    """y = scale · (weight · (x - mean(x)) / sqrt(var(x) + eps) + bias) (arXiv 1607.06450)."""

    def __init__(self, size: int, *, eps: float, scale: float, bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.scale = scale
        self.weight = declare(torch.empty(size), ParamSpec(init=1.0, scale=scale))
        self.bias = declare(torch.empty(size), ParamSpec(init=0.0, scale=scale)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        gain = at_least_fp32(self.weight) * self.scale
        shift = None if self.bias is None else at_least_fp32(self.bias) * self.scale
        out: Tensor = _LayerNorm.apply(x, gain, shift, self.eps)  # type: ignore[no-untyped-call]
        return out


class _LayerNorm(torch.autograd.Function):
    """torch's layer_norm in fp32, which keeps x in its own dtype for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor | None, eps: float) -> Tensor:
        wide = at_least_fp32(x)
        out, mean, root = torch.native_layer_norm(wide, gain.shape, gain, shift, eps)
        ctx.save_for_backward(x, gain, shift, mean, root)
        return cast(out, x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        x, gain, shift, mean, root = ctx.saved_tensors
        wide, wide_grad = at_least_fp32(x), at_least_fp32(grad)
        mask = [True, True, shift is not None]
        rows = [each.flatten(0, -2) for each in (wide_grad, wide, mean, root)]
        # torch's CUDA kernel adds up blocks of rows by itself.
        block = _BLOCK_ROWS if x.device.type == "cpu" else max(len(rows[0]), 1)
        grads_x, grads_gain, grads_shift = zip(
            *(
                torch.ops.aten.native_layer_norm_backward(g, part, gain.shape, m, r, gain, shift, mask)
                for g, part, m, r in zip(*(each.split(block) for each in rows), strict=True)
            ),
            strict=True,
        )
        grad_x = (torch.cat(grads_x) if len(grads_x) > 1 else grads_x[0]).view(x.shape)
        grad_shift = None if shift is None else torch.stack(grads_shift).sum(0)
        return cast(grad_x, x.dtype), torch.stack(grads_gain).sum(0), grad_shift, None


@NORMS.register
class RMSNormConfig(NormConfig):
    """x / sqrt(mean(x²) + eps), times a gain (arXiv 1910.07467), as in Llama."""

    name: Literal["rmsnorm"] = "rmsnorm"

    def build(self, size: int, *, bias: bool, scale: float = 1.0) -> nn.Module:
        return RMSNorm(size, eps=self.eps, scale=scale)


@NORMS.register
class LayerNormConfig(NormConfig):
    """(x - mean) / sqrt(variance + eps), times a gain, plus a shift with model.bias (arXiv 1607.06450), as in GPT-2."""

    name: Literal["layernorm"] = "layernorm"

    @property
    def statistics(self) -> int:
        return 2

    def build(self, size: int, *, bias: bool, scale: float = 1.0) -> nn.Module:
        return LayerNorm(size, eps=self.eps, scale=scale, bias=bias)


def _weighted_sum_of_rows(weights_N: Tensor, x_ND: Tensor) -> Tensor:
    """Returns the sum over all rows, N of them, of weight · row: [N], [N, D] -> [D]."""
    end = len(x_ND) - len(x_ND) % _BLOCK_ROWS
    if end == 0:
        return weights_N @ x_ND
    blocks_bnD = x_ND[:end].unflatten(0, (-1, _BLOCK_ROWS))
    total_D = torch.bmm(weights_N[:end].view(-1, 1, _BLOCK_ROWS), blocks_bnD).sum((0, 1))
    return total_D if end == len(x_ND) else total_D + weights_N[end:] @ x_ND[end:]
