"""Importing others' code without torch's compiler.

Megatron and DeepSpeed decorate functions with torch.compile as they are imported. lehr calls none of them, but the
decoration alone imports torch's compiler: seconds of every start, and a hundred megabytes of every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def without_torch_compile() -> Iterator[None]:
    """What is decorated with torch.compile within stays as it is."""
    compiler = torch.compile

    def as_it_is(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        return function if function is not None else lambda each: each

    torch.compile = as_it_is  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compiler
