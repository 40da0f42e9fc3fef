"""The cross-entropy's element-wise work on the logits of a chunk, behind one signature: by torch, or by Triton.

Shapes: n tokens of a chunk, v a rank's shard of the vocabulary.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor

from model.kernel_trial import largest_error, why_it_fails
from model.layers import Layers, TorchLayers
from model.precision import cast, wide_dtype
from settings import UserError

LossKernelName = Literal["torch", "triton"]

LOG2_E = math.log2(math.e)
# Of the norm, against float32. In float32 both forms round a few hundred terms, in 16 bits the gradients are rounded.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.02}
# Tokens and columns on which a kernel is tried, more than its block has. Triton compiles a kernel of its own for sizes
# that are multiples of 16, as those of a run are.
_TRIED = ((9, 5000), (16, 5008))


class LossKernel(Protocol):
    """Turns the logits of a chunk into losses and gradients."""

    def __call__(
        self,
        logits_nv: Tensor,
        local_n: Tensor,
        weights_n: Tensor,
        layers: Layers,
        *,
        z_loss: float,
        gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns loss_n = weights_n · (nll_n + z_loss · lse_n²), nll_n, and the gradient of the losses' sum [n, v].

        `local_n` are the targets counted from this rank's first row of the head; a target outside of [0, v) is another
        rank's, or that of a token without weight. `weights_n` and the first two results have the wide dtype. The
        gradient has the dtype of the logits, whose memory may be taken for it; without `gradient` it means nothing.
        """
        ...


def torch_loss(
    logits_nv: Tensor, local_n: Tensor, weights_n: Tensor, layers: Layers, *, z_loss: float, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The plain form, on any device: operation by operation, in the wide dtype."""
    column_n1, here_n = target_columns(local_n, logits_nv.shape[1])
    wide_nv = cast(logits_nv, wide_dtype(logits_nv))
    aim_n = wide_nv.gather(1, column_n1)[:, 0] * here_n
    highest_n = layers.max(wide_nv.amax(1))
    # exp(logits - highest), as powers of two: exp2 takes half the time of exp on CPUs.
    exp_nv = torch.add(-LOG2_E * highest_n[:, None], wide_nv, alpha=LOG2_E, out=wide_nv).exp2_()
    denominator_n, aim_n = layers.sum(torch.stack((exp_nv.sum(1), aim_n)))
    lse_n = highest_n + denominator_n.log()
    nll_n = lse_n - aim_n
    loss_n = weights_n * (nll_n + z_loss * lse_n.square())
    if not gradient:
        return loss_n, nll_n, logits_nv
    # d loss / d logit_j = weight · ((1 + 2 z lse) softmax_j - [j is the target])
    slope_n = weights_n * (1 + 2 * z_loss * lse_n) / denominator_n
    grad_nv = exp_nv.mul_(slope_n[:, None])
    grad_nv.scatter_add_(1, column_n1, -(weights_n * here_n)[:, None])
    # In 16 bits the gradient takes the memory of the logits, which are not needed any more.
    return loss_n, nll_n, grad_nv if wide_nv is logits_nv else logits_nv.copy_(grad_nv)


def target_columns(local_n: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Returns each target's column [n, 1] of this rank's logits, and whether it is one of them [n].

    The column of a target that is not here means nothing.
    """
    return local_n.clamp(0, columns - 1)[:, None], (local_n >= 0) & (local_n < columns)


def loss_kernel_by(name: LossKernelName) -> LossKernel:
    """Returns the kernel. Raises ImportError without Triton, which torch brings on a machine with a GPU."""
    if name == "torch":
        return torch_loss
    kernel: LossKernel = importlib.import_module("model.triton_kernels.loss").triton_loss
    return kernel


def choose_loss_kernel(
    wanted: LossKernelName | Literal["auto"], device: torch.device, dtype: torch.dtype, *, tried: bool = True
) -> LossKernelName:
    """Resolves `auto` to Triton's kernel where it can be used, and to torch's elsewhere. `dtype` is the model's.

    Without `tried`, Triton is taken to run on a GPU. Raises UserError if the wanted kernel cannot be used.
    """
    if wanted == "auto":
        return "torch" if why_not_loss_kernel("triton", device, dtype, tried=tried) else "triton"
    if reason := why_not_loss_kernel(wanted, device, dtype, tried=tried):
        raise UserError(f"train.cross_entropy = {wanted} cannot be used: {reason}; or set train.cross_entropy to auto")
    return wanted


def why_not_loss_kernel(
    name: LossKernelName, device: torch.device, dtype: torch.dtype, *, tried: bool = True
) -> str | None:
    """Returns why a kernel cannot be used, or None. If `tried`, it is run on a few tokens."""
    if name == "torch":
        return None
    if device.type != "cuda":
        return f"it needs a CUDA device, and the model is on {device.type}"
    if not tried:
        return None
    return why_it_fails(
        lambda: loss_kernel_error(loss_kernel_by(name), device, dtype),
        tolerance=_TOLERANCE[dtype],
        install="; install triton in the version that torch requires",
    )


def loss_kernel_error(kernel: LossKernel, device: torch.device, dtype: torch.dtype) -> float:
    """Returns the largest error of the losses and gradients, as a share of their norms, against torch in float32."""
    return largest_error(pair for tokens, columns in _TRIED for pair in _pairs(kernel, device, dtype, tokens, columns))


def _pairs(
    kernel: LossKernel, device: torch.device, dtype: torch.dtype, tokens: int, columns: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Returns the results of a kernel on [tokens, columns] logits, each with torch's in float32."""
    generator = torch.Generator().manual_seed(0)
    logits_nv = (3 * torch.randn(tokens, columns, generator=generator)).to(device, dtype)
    local_n = torch.randint(-columns // 4, columns, (tokens,), generator=generator).to(device)
    weights_n = torch.rand(tokens, generator=generator).to(device)

    def results(kernel: LossKernel, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        inputs = (logits_nv.to(dtype, copy=True), local_n, weights_n)
        return kernel(*inputs, TorchLayers(), z_loss=1e-2, gradient=True)

    return zip(results(kernel, dtype), results(torch_loss, torch.float32), strict=True)
