"""Imported before megatron.core: makes the CPU its device where there is no CUDA, and imports it uncompiled."""

from __future__ import annotations

import parallel.patches.cpu_device  # noqa: F401
from parallel.patches.uncompiled import without_torch_compile

with without_torch_compile():
    import megatron.core  # noqa: F401
