"""Causal attention for CPUs, block by block: exact, with memory linear in the sequence, forward and backward.

The algorithm of flash attention (arXiv 2205.14135), as batched matrix products over blocks of queries, without the
blocks that the causal mask or the documents' mask hides. It is one operator to torch.compile, since the blocks that are
skipped depend on values.

Shapes: B batch, H query heads, G key-value heads, T sequence, K head size, N = B·H, M = B·G, n heads computed at once,
r rows (queries) of a block, c columns (keys) that it attends to.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK = 64  # queries, or keys, of one block
SCORES_AT_ONCE = 2**20  # numbers in one block of scores: they should stay in the cache
LOG2_E = math.log2(math.e)  # scores are kept as powers of two: exp2 takes half the time of exp


def attend_in_blocks(
    q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, mask_BTT: Tensor | None, first_key_BT: Tensor | None
) -> Tensor:
    """softmax(q·k / sqrt(K) + mask) · v -> [B, H, T, K], in memory laid out as [T, B, H, K].

    Without a mask it is causal. A mask is 0 or -inf, and at most causal; `first_key_BT` (int64, on the CPU) is then the
    first key that each query attends to, and must not decrease along T. It is fastest for inputs laid out as
    [T, B, heads, K].
    """
    q_NTK, k_MTK, v_MTK = (each.flatten(0, 1) for each in (q_BHTK, k_BGTK, v_BGTK))
    out_NTK, _ = _attend(q_NTK, k_MTK, v_MTK, mask_BTT, first_key_BT)
    out_BHTK: Tensor = out_NTK.view(q_BHTK.shape)
    return out_BHTK


def _head_groups(heads: int, length: int, first_key_BT: Tensor | None) -> Iterator[tuple[slice, int, list[int]]]:
    """Yields the heads (of all N) to compute at once, their row of the batch, and the first key of each query.

    Without documents, heads of several rows are computed at once, and the first key is 0.
    """
    at_once = max(2, SCORES_AT_ONCE // (BLOCK * length))
    rows = 1 if first_key_BT is None else first_key_BT.shape[0]
    per_row = heads // rows
    for row in range(rows):
        first = [0] * length if first_key_BT is None else first_key_BT[row].tolist()
        for start in range(row * per_row, (row + 1) * per_row, at_once):
            yield slice(start, min(start + at_once, (row + 1) * per_row)), row, first


def _attend_eagerly(
    q_NTK: Tensor, k_MTK: Tensor, v_MTK: Tensor, mask_BTT: Tensor | None, first_key_BT: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns out [N, T, K], and the log2 of the softmax's denominators [N, T, 1]."""
    heads, length, head_size = q_NTK.shape
    out_NTK, lse_NT1 = _attend_shapes(q_NTK, k_MTK, v_MTK, mask_BTT, first_key_BT)
    k_NTK, v_NTK = _for_each_query(k_MTK, heads), _for_each_query(v_MTK, heads)
    q_NTK = q_NTK * (LOG2_E * head_size**-0.5)
    hidden_TT = q_NTK.new_full((BLOCK, BLOCK), -torch.inf).triu_(1)
    for group, row, first in _head_groups(heads, length, first_key_BT):
        for top in range(0, length, BLOCK):
            end, left = min(top + BLOCK, length), first[top]
            scores_nrc = torch.bmm(q_NTK[group, top:end], k_NTK[group, left:end].mT)
            if mask_BTT is None:
                scores_nrc[:, :, top:].add_(hidden_TT[: end - top, : end - top])
            else:
                scores_nrc.add_(mask_BTT[row, top:end, left:end])
            highest_nr1 = scores_nrc.amax(2, keepdim=True)
            shares_nrc = scores_nrc.sub_(highest_nr1).exp2_()
            denominator_nr1 = shares_nrc.sum(2, keepdim=True)
            lse_NT1[group, top:end] = denominator_nr1.log2().add_(highest_nr1)
            mixed_nrK = torch.bmm(shares_nrc, v_NTK[group, left:end])
            torch.div(mixed_nrK, denominator_nr1, out=out_NTK[group, top:end])
    return out_NTK, lse_NT1


def _attend_shapes(
    q_NTK: Tensor, k_MTK: Tensor, v_MTK: Tensor, mask_BTT: Tensor | None, first_key_BT: Tensor | None
) -> tuple[Tensor, Tensor]:
    heads, length, _ = q_NTK.shape
    return _laid_out_as_TNK(q_NTK), q_NTK.new_empty(heads, length, 1)


def _attend_backward_eagerly(
    grad_NTK: Tensor,
    q_NTK: Tensor,
    k_MTK: Tensor,
    v_MTK: Tensor,
    out_NTK: Tensor,
    lse_NT1: Tensor,
    mask_BTT: Tensor | None,
    first_key_BT: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of q, k, v; it goes by blocks of keys, so that one block completes those of k and v."""
    heads, length, head_size = q_NTK.shape
    k_NTK, v_NTK = _for_each_query(k_MTK, heads), _for_each_query(v_MTK, heads)
    grad_q_NTK, grad_k_NTK, grad_v_NTK = (_laid_out_as_TNK(q_NTK) for _ in range(3))
    grad_q_NTK.zero_()
    scale = head_size**-0.5
    scaled_q_NTK = q_NTK * (LOG2_E * scale)
    # d scores = shares · (d shares - sum over keys of shares · d shares); that sum is out · d out.
    minus_dot_NT1 = -torch.linalg.vecdot(grad_NTK, out_NTK)[..., None]
    minus_lse_NT1 = -lse_NT1
    for group, row, first in _head_groups(heads, length, first_key_BT):
        for left in range(0, length, BLOCK):
            end = min(left + BLOCK, length)
            rows = (group, slice(left, bisect_left(first, end)))  # queries that attend to a key of this block
            shares_nrc = torch.baddbmm(minus_lse_NT1[rows], scaled_q_NTK[rows], k_NTK[group, left:end].mT)
            if mask_BTT is not None:
                shares_nrc.add_(mask_BTT[row, rows[1], left:end])
            shares_nrc.exp2_()
            if mask_BTT is None:
                shares_nrc[:, : end - left].tril_()
            grad_NrK = grad_NTK[rows]
            grad_v_NTK[group, left:end] = torch.bmm(shares_nrc.mT, grad_NrK)
            grad_scores_nrc = torch.baddbmm(minus_dot_NT1[rows], grad_NrK, v_NTK[group, left:end].mT).mul_(shares_nrc)
            torch.mul(torch.bmm(grad_scores_nrc.mT, q_NTK[rows]), scale, out=grad_k_NTK[group, left:end])
            grad_q_NTK[rows].add_(torch.bmm(grad_scores_nrc, k_NTK[group, left:end]), alpha=scale)
    return grad_q_NTK, _over_queries(grad_k_NTK, len(k_MTK)), _over_queries(grad_v_NTK, len(v_MTK))


def _attend_backward_shapes(
    grad_NTK: Tensor,
    q_NTK: Tensor,
    k_MTK: Tensor,
    v_MTK: Tensor,
    out_NTK: Tensor,
    lse_NT1: Tensor,
    mask_BTT: Tensor | None,
    first_key_BT: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return _laid_out_as_TNK(q_NTK), _laid_out_as_TNK(k_MTK), _laid_out_as_TNK(v_MTK)


def _laid_out_as_TNK(like_NTK: Tensor) -> Tensor:
    heads, length, head_size = like_NTK.shape
    return like_NTK.new_empty(length, heads, head_size).transpose(0, 1)


def _for_each_query(x_MTK: Tensor, heads: int) -> Tensor:
    """Repeats key-value heads [M, T, K] as often as query heads share them: [N, T, K]."""
    groups = heads // len(x_MTK)
    return x_MTK if groups == 1 else x_MTK.transpose(0, 1).repeat_interleave(groups, dim=1).transpose(0, 1)


def _over_queries(grad_NTK: Tensor, kv_heads: int) -> Tensor:
    """Sums over the query heads that share a key-value head: the backward pass of `_for_each_query`."""
    heads, length, head_size = grad_NTK.shape
    if heads == kv_heads:
        return grad_NTK
    return grad_NTK.transpose(0, 1).view(length, kv_heads, -1, head_size).sum(2).transpose(0, 1)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output, *inputs[3:])


def _backward(ctx: Any, grad_NTK: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_attend_backward(grad_NTK, *ctx.saved_tensors), None, None


# Not by torch.library.custom_op: that imports torch's compiler, a second of every rank's first step.
_LIBRARY = torch.library.Library("lehr", "DEF")


def _operator(name: str, eagerly: Callable[..., Any], shapes: Callable[..., Any]) -> Callable[..., Any]:
    _LIBRARY.define(name + torch.library.infer_schema(eagerly, mutates_args=()))
    _LIBRARY.impl(name, eagerly, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lehr::{name}", shapes, lib=_LIBRARY)
    operator: Callable[..., Any] = getattr(torch.ops.lehr, name).default
    return operator


_attend = _operator("attend_in_blocks", _attend_eagerly, _attend_shapes)
_attend_backward = _operator("attend_in_blocks_backward", _attend_backward_eagerly, _attend_backward_shapes)
torch.library.register_autograd("lehr::attend_in_blocks", _backward, setup_context=_save, lib=_LIBRARY)
