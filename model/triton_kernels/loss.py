"""The cross-entropy's element-wise work in two passes over the logits, as Triton kernels.

The first pass reads a token's logits once and returns their maximum, their sum of exponentials and the target's logit,
by the online softmax (arXiv 1805.02867, section 3). These three numbers of each token are what tensor ranks exchange.
The second pass writes the gradient over the logits. A logit in bfloat16 so moves 6 bytes; torch's operations move 44.

The kernels are operators of torch, so that they have a name in a profile and can be counted on meta tensors. On a CPU
they run under Triton's interpreter only (TRITON_INTERPRET=1), for tests.

Shapes: n tokens of a chunk, v a rank's shard of the vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.layers import Layers
from model.loss_kernels import LOG2_E
from model.precision import wide_dtype

_LOG2_E = tl.constexpr(LOG2_E)
_LOWEST = tl.constexpr(-1e38)  # a lane that has seen no logit: below any, and finite, so that no difference is NaN
# A block of logits is LANES x SPAN: each thread reduces its span of 16 bytes by itself, with one exponential for the
# shift of the sum. 8 warps hold two spans a thread.
_LANES, _SPAN, _WARPS = 512, 8, 8


@triton.jit  # type: ignore[untyped-decorator]
def statistics_kernel(logits, targets, out, rows, columns, LANES: tl.constexpr, SPAN: tl.constexpr):  # type: ignore[no-untyped-def]
    """Writes of a row its maximum, its sum of exp(logit - maximum), and the target's logit, or 0, to out[3, rows]."""
    row = tl.program_id(0).to(tl.int64)
    wide = out.dtype.element_ty
    line = logits + row * columns
    place = tl.arange(0, LANES)[:, None] * SPAN + tl.arange(0, SPAN)[None, :]
    highest = tl.full((LANES,), _LOWEST, wide)
    total = tl.zeros((LANES,), wide)
    for start in range(0, columns, LANES * SPAN):
        column = start + place
        logit = tl.load(line + column, mask=column < columns, other=-float("inf")).to(wide)
        higher = tl.maximum(highest, tl.max(logit, 1))
        total = total * tl.exp2((highest - higher) * _LOG2_E)
        total += tl.sum(tl.exp2((logit - higher[:, None]) * _LOG2_E), 1)
        highest = higher
    peak = tl.max(highest, 0)
    target = tl.load(targets + row)
    aim = tl.load(line + target, mask=(target >= 0) & (target < columns), other=0.0).to(wide)
    tl.store(out + row, peak)
    tl.store(out + rows + row, tl.sum(total * tl.exp2((highest - peak) * _LOG2_E), 0))
    tl.store(out + 2 * rows + row, aim)


@triton.jit  # type: ignore[untyped-decorator]
def loss_kernel(  # type: ignore[no-untyped-def]
    logits,
    targets,
    highest,
    sums,
    weights,
    out,
    rows,
    columns,
    Z_LOSS: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Writes a row's loss and nll to out[2, rows], and with GRADIENT the gradient over the row's logits.

    `sums` [2, rows]: the denominator and the target's logit, of all ranks.
    """
    row = tl.program_id(0).to(tl.int64)
    wide = out.dtype.element_ty
    peak, weight = tl.load(highest + row), tl.load(weights + row)
    denominator, aim = tl.load(sums + row), tl.load(sums + rows + row)
    lse = peak + tl.log(denominator)
    nll = lse - aim
    tl.store(out + row, weight * (nll + Z_LOSS * lse * lse))
    tl.store(out + rows + row, nll)
    if GRADIENT:
        line = logits + row * columns
        target = tl.load(targets + row)
        slope = weight * (1 + 2 * Z_LOSS * lse) / denominator
        for start in range(0, columns, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < columns
            logit = tl.load(line + column, mask=inside, other=0.0).to(wide)
            grad = slope * tl.exp2((logit - peak) * _LOG2_E)
            grad = tl.where(column == target, grad - weight, grad)
            tl.store(line + column, grad.to(logits.dtype.element_ty), mask=inside)


def triton_loss(
    logits_nv: Tensor, local_n: Tensor, weights_n: Tensor, layers: Layers, *, z_loss: float, gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The form for GPUs, see `LossKernel`. Needs contiguous arguments."""
    own_n, exp_n, aim_n = torch.ops.lehr.loss_statistics(logits_nv, local_n)
    highest_n = layers.max(own_n)
    sums_2n = layers.sum(torch.stack((exp_n * (own_n - highest_n).exp(), aim_n)))
    loss_n, nll_n = torch.ops.lehr.loss_and_gradient_(
        logits_nv, local_n, highest_n, sums_2n, weights_n, z_loss, gradient
    )
    return loss_n, nll_n, logits_nv


def _statistics(logits_nv: Tensor, local_n: Tensor) -> Tensor:
    assert logits_nv.is_contiguous()
    rows, columns = logits_nv.shape
    out_3n = _empty_statistics(logits_nv, local_n)
    statistics_kernel[(rows,)](logits_nv, local_n, out_3n, rows, columns, LANES=_LANES, SPAN=_SPAN, num_warps=_WARPS)
    return out_3n


def _loss_and_gradient(
    logits_nv: Tensor,
    local_n: Tensor,
    highest_n: Tensor,
    sums_2n: Tensor,
    weights_n: Tensor,
    z_loss: float,
    gradient: bool,
) -> Tensor:
    assert all(each.is_contiguous() for each in (logits_nv, sums_2n, weights_n))
    rows, columns = logits_nv.shape
    out_2n = torch.empty_like(sums_2n)
    loss_kernel[(rows,)](
        *(logits_nv, local_n, highest_n, sums_2n, weights_n, out_2n, rows, columns),
        Z_LOSS=z_loss,
        GRADIENT=gradient,
        BLOCK=_LANES * _SPAN,
        num_warps=_WARPS,
    )
    return out_2n


def _empty_statistics(logits_nv: Tensor, local_n: Tensor) -> Tensor:
    return logits_nv.new_empty(3, len(logits_nv), dtype=wide_dtype(logits_nv))


# Not by torch.library.triton_op: that imports torch's compiler, a second of every rank's first step.
_LIBRARY = torch.library.Library("lehr", "FRAGMENT")
_LIBRARY.define("loss_statistics(Tensor logits, Tensor targets) -> Tensor")
_LIBRARY.define(
    "loss_and_gradient_(Tensor(a!) logits, Tensor targets, Tensor highest, Tensor sums, Tensor weights, float z_loss, "
    "bool gradient) -> Tensor"
)
for _key in ("CPU", "CUDA"):
    _LIBRARY.impl("loss_statistics", _statistics, _key)
    _LIBRARY.impl("loss_and_gradient_", _loss_and_gradient, _key)
_LIBRARY.impl("loss_statistics", _empty_statistics, "Meta")
_LIBRARY.impl("loss_and_gradient_", lambda *given: torch.empty_like(given[3]), "Meta")
