"""Attention kernels of torch and of the flash-attn packages that take packed documents, behind one signature.

torch has flash attention for documents since 2.10 (torch.nn.attention.varlen). flash-attn 2 is the package `flash_attn`
(arXiv 2307.08691), flash-attn 3 the module `flash_attn_interface` (arXiv 2407.08608), flash-attn 4 the package
`flash_attn.cute`. Their functions differ between releases, so an option is given to those that have it.

Shapes: N tokens of all rows, B batch, T sequence, H query heads, G key-value heads, K head size.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

PackedKernel = Literal["varlen", "flash", "flash3", "flash4"]

# (q [N, H, K], k [N, G, K], v [N, G, K], the first token of each document and N, tokens of the longest) -> [N, H, K]
DocumentsKernel = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
# (q [B, T, H, K], k [B, T, G, K], v [B, T, G, K]) -> [B, T, H, K]
RowsKernel = Callable[[Tensor, Tensor, Tensor], Tensor]

FLASH_MODULES: dict[str, str] = {"flash": "flash_attn", "flash3": "flash_attn_interface", "flash4": "flash_attn.cute"}


def attend_to_documents(
    kernel: DocumentsKernel,
    q_BHTK: Tensor,
    k_BGTK: Tensor,
    v_BGTK: Tensor,
    document_starts: Tensor,
    longest_document: int,
) -> Tensor:
    """softmax(q·k / sqrt(K)) · v -> [B, H, T, K], over the earlier tokens of the same document."""
    q_NHK, k_NGK, v_NGK = (each.transpose(1, 2).flatten(0, 1) for each in (q_BHTK, k_BGTK, v_BGTK))
    out_NHK = kernel(q_NHK, k_NGK, v_NGK, document_starts, longest_document)
    rows, heads, length, size = q_BHTK.shape
    return out_NHK.view(rows, length, heads, size).transpose(1, 2)


def attend_to_rows(kernel: RowsKernel, q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
    """softmax(q·k / sqrt(K)) · v -> [B, H, T, K], over the earlier tokens of the same row."""
    return kernel(*(each.transpose(1, 2) for each in (q_BHTK, k_BGTK, v_BGTK))).transpose(1, 2)


def load_documents_kernel(name: PackedKernel) -> DocumentsKernel:
    """Imports the kernel for documents. Raises ImportError if it is not installed, or lacks what is needed here."""
    if name == "varlen":
        return torch_documents_kernel(_imported("torch.nn.attention.varlen", "varlen_attn"))
    return flash_documents_kernel(_imported(FLASH_MODULES[name], "flash_attn_varlen_func"))


def load_rows_kernel(name: PackedKernel) -> RowsKernel:
    """Imports a flash-attn package's kernel for rows. Raises ImportError as `load_documents_kernel` does."""
    function = _imported(FLASH_MODULES[name], "flash_attn_func")
    options = _flash_options(function)
    return lambda q_BTHK, k_BTGK, v_BTGK: _first(function(q_BTHK, k_BTGK, v_BTGK, **options))


def torch_documents_kernel(varlen_attn: Callable[..., Any]) -> DocumentsKernel:
    """Adapts torch's function: 2.10 takes `is_causal`, later ones a window, and `enable_gqa` for grouped queries."""
    names = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"is_causal": True} if "is_causal" in names else {"window_size": (-1, 0)}
    takes_groups = "enable_gqa" in names

    def attend(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, starts: Tensor, longest: int) -> Tensor:
        groups = q_NHK.shape[1] // k_NGK.shape[1]
        if groups > 1 and not takes_groups:
            k_NGK, v_NGK = (each.repeat_interleave(groups, 1) for each in (k_NGK, v_NGK))
        more = {"enable_gqa": groups > 1} if takes_groups else {}
        out_NHK: Tensor = varlen_attn(q_NHK, k_NGK, v_NGK, starts, starts, longest, longest, **options, **more)
        return out_NHK

    return attend


def flash_documents_kernel(flash_attn_varlen_func: Callable[..., Any]) -> DocumentsKernel:
    """Adapts a flash-attn package's function; flash-attn 4 does not need the length of the longest document."""
    names = inspect.signature(flash_attn_varlen_func).parameters
    options = _flash_options(flash_attn_varlen_func)

    def attend(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, starts: Tensor, longest: int) -> Tensor:
        given: dict[str, Any] = {"cu_seqlens_q": starts, "cu_seqlens_k": starts}
        given |= {name: longest for name in ("max_seqlen_q", "max_seqlen_k") if name in names}
        return _first(flash_attn_varlen_func(q_NHK, k_NGK, v_NGK, **given, **options))

    return attend


def _flash_options(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns the options of every call. Raises ImportError if the backward pass would not be deterministic as set."""
    options: dict[str, Any] = {"causal": True}
    if torch.are_deterministic_algorithms_enabled():
        if "deterministic" not in inspect.signature(function).parameters:
            raise ImportError("this release has no deterministic backward pass, which train.deterministic needs")
        options["deterministic"] = True
    return options


def _imported(module: str, name: str) -> Callable[..., Any]:
    """Returns a function of a package. A namespace is no proof of the package: flash-attn 4 has `flash_attn` too."""
    function = getattr(importlib.import_module(module), name, None)
    if function is None:
        raise ImportError(f"{module} has no {name}")
    return function  # type: ignore[no-any-return]


def _first(result: Any) -> Tensor:
    """Returns the output: some releases return the softmax's denominators too."""
    out: Tensor = result[0] if isinstance(result, tuple) else result
    return out
