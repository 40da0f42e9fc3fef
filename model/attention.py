"""Causal self-attention with grouped queries, and the kernels that compute it.

Shapes: t, T sequence (a rank's part, full), B batch, D hidden_size, H a rank's query heads, G its key-value heads
(H a multiple of G), K head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from model.blocked import attend_in_blocks
from model.device_copy import copied_to
from model.layers import Layers
from model.norms import NormConfig
from model.packed import PackedKernel, attend_to_documents, attend_to_rows, load_documents_kernel, load_rows_kernel
from model.parameter import applied_to_shards
from model.position import Rotation, rotate
from model.recompute import RecomputeContext, saving

Kernel = Literal["sdpa", "blocked", PackedKernel]


@dataclass(frozen=True)
class AttentionMask:
    """Which tokens of a micro-batch attend to which, in the form that the kernel takes; built once for all layers."""

    mask_B1TT: Tensor | None = None  # sdpa, blocked: 0 where the query attends to the key, else -inf
    first_key_BT: Tensor | None = None  # blocked: int64, on the CPU, the first key that each query attends to
    document_starts: Tensor | None = None  # packed kernels: int32, the first of the B·T tokens of each document; B·T
    longest_document: int = 0  # packed kernels: tokens of the longest document

    @staticmethod
    def from_documents(
        documents_BT: Tensor, *, kernel: Kernel, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> AttentionMask | None:
        """Builds the mask from each token's document number in its row: a document ends where the number changes.

        Returns None if every row is one document: a causal mask is enough. `documents_BT` must be on the CPU, since
        reading its values on a GPU would wait for the GPU. The host does not wait for copies of the mask to a GPU.
        `dtype` is the model's.
        """
        device = torch.device(device)
        change_BT = documents_BT[:, 1:] != documents_BT[:, :-1]
        if not bool(change_BT.any()):
            return None
        begins_BT = nn.functional.pad(change_BT, (1, 0), value=True)
        if kernel in get_args(PackedKernel):
            starts = nn.functional.pad(begins_BT.flatten().nonzero().flatten(), (0, 1), value=documents_BT.numel())
            return AttentionMask(
                document_starts=copied_to(starts.int(), device), longest_document=int(starts.diff().max())
            )
        place_T = torch.arange(documents_BT.shape[1])
        first_key_BT = (place_T * begins_BT).cummax(1).values
        key_T, first_key_BT1 = copied_to(place_T, device), copied_to(first_key_BT, device)[:, :, None]
        hidden_BTT = (key_T < first_key_BT1) | (key_T > key_T[:, None])
        mask_BTT = torch.zeros(hidden_BTT.shape, dtype=dtype, device=device).masked_fill_(hidden_BTT, -torch.inf)
        return AttentionMask(mask_B1TT=mask_BTT[:, None], first_key_BT=first_key_BT if kernel == "blocked" else None)


Attend = Callable[[Tensor, Tensor, Tensor, AttentionMask | None], Tensor]


def sdpa(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, attention_mask: AttentionMask | None) -> Tensor:
    """torch's scaled_dot_product_attention: softmax(q·k / sqrt(K)) · v, causal, on any device -> [B, H, T, K]."""
    mask = None if attention_mask is None else attention_mask.mask_B1TT
    groups = q_BHTK.shape[1] // k_BGTK.shape[1]
    if groups > 1 and q_BHTK.is_cuda and (mask is not None or q_BHTK.dtype == torch.float32):
        # torch's flash kernel takes neither a mask nor float32, its memory-efficient one no groups: with both, only
        # the kernel that holds T·T scores would remain.
        k_BGTK, v_BGTK = (each.repeat_interleave(groups, 1) for each in (k_BGTK, v_BGTK))
        groups = 1
    return nn.functional.scaled_dot_product_attention(
        q_BHTK, k_BGTK, v_BGTK, attn_mask=mask, is_causal=mask is None, enable_gqa=groups > 1
    )


def blocked(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, attention_mask: AttentionMask | None) -> Tensor:
    """The same in blocks, on the CPU (model/blocked.py): faster than sdpa there, above all with several documents."""
    if attention_mask is None or attention_mask.mask_B1TT is None:
        return attend_in_blocks(q_BHTK, k_BGTK, v_BGTK, None, None)
    return attend_in_blocks(q_BHTK, k_BGTK, v_BGTK, attention_mask.mask_B1TT[:, 0], attention_mask.first_key_BT)


KERNELS: dict[Kernel, Attend] = {"sdpa": sdpa, "blocked": blocked}  # those that need no package and run on CPUs


def attend_by(kernel: Kernel) -> Attend:
    """Returns the kernel's function. Raises ImportError if it comes from a package that is not installed.

    torch's `varlen` is for documents; rows of one document go to `sdpa`, which has faster kernels for them.
    """
    if kernel == "sdpa" or kernel == "blocked":
        return KERNELS[kernel]
    documents_kernel = load_documents_kernel(kernel)
    rows_kernel = None if kernel == "varlen" else load_rows_kernel(kernel)

    def attend(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, attention_mask: AttentionMask | None) -> Tensor:
        if attention_mask is not None:
            starts, longest = attention_mask.document_starts, attention_mask.longest_document
            assert starts is not None, "the attention mask was built for another kernel"
            return attend_to_documents(documents_kernel, q_BHTK, k_BGTK, v_BGTK, starts, longest)
        if rows_kernel is None:
            return sdpa(q_BHTK, k_BGTK, v_BGTK, None)
        return attend_to_rows(rows_kernel, q_BHTK, k_BGTK, v_BGTK)

    return attend


class Attention(nn.Module):
    """out(attend(q, k, v)): queries in H heads, keys and values in G (arXiv 2305.13245); QK-norm (arXiv 2010.04245)."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        *,
        bias: bool,
        qk_norm: NormConfig | None,
        layers: Layers,
        attend: Attend,
        save_or_recompute: RecomputeContext = saving,
    ) -> None:
        super().__init__()
        self._head_size = hidden_size // num_heads
        self.q = layers.column(hidden_size, hidden_size, bias=bias)
        self.k = layers.column(hidden_size, num_kv_heads * self._head_size, bias=bias)
        self.v = layers.column(hidden_size, num_kv_heads * self._head_size, bias=bias)
        self.out = layers.row(hidden_size, hidden_size, bias=bias)
        self.q_norm = None if qk_norm is None else applied_to_shards(qk_norm.build(self._head_size, bias=False))
        self.k_norm = None if qk_norm is None else applied_to_shards(qk_norm.build(self._head_size, bias=False))
        self._layers = layers
        self._attend = attend
        self._save_or_recompute = save_or_recompute

    def forward(self, x_tBD: Tensor, rotation: Rotation | None, attention_mask: AttentionMask | None) -> Tensor:
        projected = self._layers.project(x_tBD, (self.q, self.k, self.v))
        q_TBHK, k_TBGK, v_TBGK = (each.view(*each.shape[:-1], -1, self._head_size) for each in projected)
        if self.q_norm is not None and self.k_norm is not None:
            q_TBHK, k_TBGK = self.q_norm(q_TBHK), self.k_norm(k_TBGK)
        if rotation is not None:
            q_TBHK, k_TBGK = rotate(q_TBHK, rotation), rotate(k_TBGK, rotation)
        q_BHTK, k_BGTK, v_BGTK = (each.permute(1, 2, 0, 3) for each in (q_TBHK, k_TBGK, v_TBGK))
        mixed_BHTK = self._attend(q_BHTK, k_BGTK, v_BGTK, attention_mask)
        mixed_TBD = mixed_BHTK.permute(2, 0, 1, 3).flatten(2).contiguous()
        with self._save_or_recompute(mixed_TBD, lambda: mixed_BHTK.permute(2, 0, 1, 3).flatten(2).contiguous()):
            out_tBD: Tensor = self.out(mixed_TBD)
        return out_tBD
