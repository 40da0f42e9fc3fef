"""Imported before any module of megatron.core: the CPU as its device where there is no other, and a quick import.

Megatron decorates fused kernels with torch.compile as it is imported. lehr calls none of them, but the decoration alone
imports torch's compiler: seconds of every start, and a hundred megabytes of every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import parallel.cpu  # noqa: F401


@contextmanager
def _decorations_left_out() -> Iterator[None]:
    compiler = torch.compile

    def as_it_is(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        return function if function is not None else lambda each: each

    torch.compile = as_it_is  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiler


with _decorations_left_out():
    import megatron.core  # noqa: F401
