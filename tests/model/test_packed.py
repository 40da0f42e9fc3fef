"""Kernels for packed documents: their inputs against the dense mask; the signatures that releases of packages have."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import KERNELS, AttentionMask, attend_by
from model.packed import attend_to_documents, flash_documents_kernel, load_documents_kernel, torch_documents_kernel


def plain(q_NHK: Tensor, k_NHK: Tensor, v_NHK: Tensor, starts: Tensor, longest: int, *, groups: bool) -> Tensor:
    """Attends document by document with torch's attention of one sequence."""
    borders = starts.tolist()
    lengths = [end - start for start, end in itertools.pairwise(borders)]
    assert longest == max(lengths)
    documents = [
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=groups).transpose(0, 1)
        for q, k, v in zip(*(each.transpose(0, 1).split(lengths, 1) for each in (q_NHK, k_NHK, v_NHK)), strict=True)
    ]
    return torch.cat(documents)


# torch.nn.attention.varlen.varlen_attn, as its releases declare it.
def torch_2_10(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, is_causal: bool = False
) -> Tensor:
    assert is_causal
    assert query.shape[1] == key.shape[1]
    return plain(query, key, value, cu_seq_q, max_q, groups=False)


def torch_2_11(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, *, window_size: Any = None
) -> Tensor:
    assert window_size == (-1, 0)
    assert query.shape[1] == key.shape[1]
    return plain(query, key, value, cu_seq_q, max_q, groups=False)


def torch_2_13(
    query: Any,
    key: Any,
    value: Any,
    cu_seq_q: Any,
    cu_seq_k: Any,
    max_q: int,
    max_k: int,
    *,
    window_size: Any = None,
    enable_gqa: bool = False,
) -> Tensor:
    assert window_size == (-1, 0)
    return plain(query, key, value, cu_seq_q, max_q, groups=enable_gqa)


# flash_attn_varlen_func of the packages.
def flash_2(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    causal: bool = False,
    deterministic: bool = False,
) -> Tensor:
    assert causal
    return plain(q, k, v, cu_seqlens_q, max_seqlen_q, groups=True)


def flash_4(q: Any, k: Any, v: Any, cu_seqlens_q: Any = None, cu_seqlens_k: Any = None, causal: bool = False) -> Any:
    assert causal
    return plain(q, k, v, cu_seqlens_q, int(cu_seqlens_q.diff().max()), groups=True), None


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(
    "kernel",
    [
        *(torch_documents_kernel(function) for function in (torch_2_10, torch_2_11, torch_2_13)),
        *(flash_documents_kernel(function) for function in (flash_2, flash_4)),
    ],
)
def test_documents_are_those_of_the_dense_mask(kernel: Callable[..., Tensor], kv_heads: int) -> None:
    """Forward and backward, in float64; the first row is one document, and the last begins where a row begins."""
    generator = torch.Generator().manual_seed(1)
    inputs = [
        torch.randn(20, 3, heads, 8, generator=generator, dtype=torch.float64).permute(1, 2, 0, 3).requires_grad_()
        for heads in (4, kv_heads, kv_heads)
    ]
    place_T = torch.arange(20)
    documents_BT = torch.stack((place_T * 0, (place_T >= 7).long() + (place_T >= 8), (place_T >= 19).long()))
    packed = AttentionMask.from_documents(documents_BT, kernel="varlen", dtype=torch.float64)
    assert packed is not None
    assert packed.document_starts is not None
    dense = AttentionMask.from_documents(documents_BT, kernel="sdpa", dtype=torch.float64)
    found = attend_to_documents(kernel, *inputs, packed.document_starts, packed.longest_document)
    wanted = KERNELS["sdpa"](*inputs, dense)
    pull = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(found, wanted)
    for got, right in zip(
        torch.autograd.grad(found, inputs, pull), torch.autograd.grad(wanted, inputs, pull), strict=True
    ):
        torch.testing.assert_close(got, right)


def test_rows_of_one_document_go_to_sdpa() -> None:
    q, k, v = (torch.randn(2, heads, 6, 4, generator=torch.Generator().manual_seed(1)) for heads in (4, 2, 2))
    assert torch.equal(attend_by("varlen")(q, k, v, None), KERNELS["sdpa"](q, k, v, None))


def test_the_namespace_of_flash_attn_4_is_not_flash_attn_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    with pytest.raises(ImportError, match="flash_attn has no flash_attn_varlen_func"):
        load_documents_kernel("flash")


def test_a_backward_pass_is_deterministic_or_refused() -> None:
    given: list[bool] = []

    def takes_it(
        q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, causal: bool = False, deterministic: bool = False
    ) -> Any:
        given.append(deterministic)
        return q

    def without_it(q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, causal: bool = False) -> Any:
        return q

    def call(function: Callable[..., Any]) -> None:
        flash_documents_kernel(function)(*torch.zeros(3, 2, 1, 4), torch.tensor([0, 2]), 2)

    call(takes_it)
    call(without_it)
    torch.use_deterministic_algorithms(True)
    try:
        call(takes_it)
        with pytest.raises(ImportError, match=r"train\.deterministic"):
            call(without_it)
    finally:
        torch.use_deterministic_algorithms(False)
    assert given == [False, True]
