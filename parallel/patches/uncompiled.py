"""Importing Megatron and DeepSpeed without torch's compiler.

Both decorate functions with torch.compile while they are imported. lehr calls none of these functions, but decorating
alone imports torch's compiler: seconds at every start, and a hundred megabytes in every rank.

No setting serves instead: TORCH_COMPILE_DISABLE is read by the compiler, once it is imported; megatron.core.jit has
disable_jit_fuser, but importing that module runs megatron.core's __init__ first, which decorates. DeepSpeed has none.
tests/parallel/patches/test_uncompiled.py holds that both still need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def without_torch_compile() -> Iterator[None]:
    """Returns context in which torch.compile returns functions unchanged."""
    original = torch.compile

    def unchanged(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        return function if function is not None else lambda decorated: decorated

    torch.compile = unchanged  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = original
