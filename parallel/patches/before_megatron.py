"""Imported before any module of megatron.core: the CPU as its device where there is no other, and a quick import."""

from __future__ import annotations

import parallel.patches.cpu_device  # noqa: F401
from parallel.patches.uncompiled import compile_left_out

with compile_left_out():
    import megatron.core  # noqa: F401
