"""The output head and the cross-entropy in one, chunk by chunk, so that all logits are never in memory at once.

The gradients are computed in the forward pass, from each chunk's logits: three matrix products in all, as many as
without chunks, and nothing is computed twice.

Shapes: N tokens, n tokens of a chunk, D hidden_size, v a rank's shard of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.layers import Layers
from model.loss_kernels import LossKernel, torch_loss
from model.precision import cast, wide_dtype


def default_chunk_tokens(device_type: str, vocabulary: int) -> int:
    """Returns how many tokens to compute at once, for this rank's shard of the vocabulary.

    On a CPU a chunk's logits should stay in the cache. A GPU starts a dozen kernels a chunk, and adds the head's
    gradient once a chunk, so it wants few chunks: as many tokens as fill 0.8 GB in bfloat16 and float32 together.
    """
    if device_type == "cpu":
        return 512
    return max(512, 2**27 // vocabulary // 256 * 256)


def cross_entropy(
    x_ND: Tensor,
    head_vD: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    layers: Layers,
    *,
    z_loss: float,
    chunk_tokens: int,
    kernel: LossKernel = torch_loss,
) -> tuple[Tensor, Tensor]:
    """Returns sum_i weights_i · (nll_i + z_loss · lse_i²), and the sum of nll_i over weights_i > 0, detached; in fp32.

    `x_ND` is full on each rank (it comes from `layers.enter`, whose backward sums the ranks' gradients); `head_vD`
    is this rank's contiguous shard of the vocabulary's rows; targets are global. The gradient is for one backward pass.
    """
    plan = _Plan(layers, kernel, z_loss, chunk_tokens)
    if torch.is_grad_enabled() and (x_ND.requires_grad or head_vD.requires_grad):
        total, nll = _CrossEntropy.apply(x_ND, head_vD, targets_N, weights_N, plan)  # type: ignore[no-untyped-call]
        return total, nll
    total, nll, _, _ = _run(x_ND, head_vD, targets_N, weights_N, plan, want_x=False, want_head=False)
    return total, nll


@dataclass(frozen=True)
class _Plan:
    layers: Layers
    kernel: LossKernel
    z_loss: float
    chunk_tokens: int


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, head_vD: Tensor, targets_N: Tensor, weights_N: Tensor, plan: _Plan
    ) -> tuple[Tensor, Tensor]:
        want_x, want_head, *_ = ctx.needs_input_grad
        total, nll, grad_x, grad_head = _run(
            x_ND, head_vD, targets_N, weights_N, plan, want_x=want_x, want_head=want_head
        )
        ctx.save_for_backward(grad_x, grad_head)
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # In place: there is one backward pass, and autograd refuses a second one, which would find these changed.
        grad_x_ND, grad_head_vD = (None if grad is None else grad.mul_(grad_total) for grad in ctx.saved_tensors)
        return grad_x_ND, grad_head_vD, None, None, None


def _run(
    x_ND: Tensor, head_vD: Tensor, targets_N: Tensor, weights_N: Tensor, plan: _Plan, *, want_x: bool, want_head: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Returns total, nll, and the wanted gradients of the total (the head's summed over chunks in fp32)."""
    wide = wide_dtype(x_ND)
    loss_N, nll_N = (x_ND.new_empty(x_ND.shape[0], dtype=wide) for _ in range(2))
    grad_x_ND = torch.empty_like(x_ND) if want_x else None
    grad_head_vD = torch.zeros_like(head_vD, dtype=wide) if want_head else None
    # One buffer for all chunks: the allocator would get new memory of this size from the system each time.
    buffer_nv = x_ND.new_empty(min(plan.chunk_tokens, x_ND.shape[0]), head_vD.shape[0])
    local_N, weights_N = targets_N - plan.layers.rank * head_vD.shape[0], cast(weights_N, wide)
    for start in range(0, x_ND.shape[0], plan.chunk_tokens):
        chunk = slice(start, start + plan.chunk_tokens)
        x_nD = x_ND[chunk]
        logits_nv = torch.mm(x_nD, head_vD.mT, out=buffer_nv[: len(x_nD)])
        loss_N[chunk], nll_N[chunk], grad_nv = plan.kernel(
            *(logits_nv, local_N[chunk], weights_N[chunk], plan.layers),
            z_loss=plan.z_loss,
            gradient=want_x or want_head,
        )
        if grad_x_ND is not None:
            torch.mm(grad_nv, head_vD, out=grad_x_ND[chunk])
        if grad_head_vD is not None:
            _add_product(grad_head_vD, grad_nv.mT, x_nD)
    # In float64: of thousands of chunks, fp32 would round the last ones away.
    total, nll = (
        cast(each_N.sum(dtype=torch.float64), wide) for each_N in (loss_N, torch.where(weights_N > 0, nll_N, 0.0))
    )
    grad_head_vD = None if grad_head_vD is None else cast(grad_head_vD, head_vD.dtype)
    return total, nll, grad_x_ND, grad_head_vD


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left @ right to `total`, which has the wide dtype, in one product where the device has one for that."""
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    elif total.device.type == "cpu":
        total.add_(left @ right)
    else:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
