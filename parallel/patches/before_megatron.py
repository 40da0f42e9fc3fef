"""Imported before any module of megatron.core: the CPU as its device where there is no other, and a quick import."""

from __future__ import annotations

import parallel.patches.cpu_device  # noqa: F401
from parallel.patches.uncompiled import without_torch_compile

with without_torch_compile():
    import megatron.core  # noqa: F401
