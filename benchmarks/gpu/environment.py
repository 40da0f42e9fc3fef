"""The machine: card, versions, cores, the fastest matrix product, the bandwidth of the memory."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

import torch

from gpu.context import Context, Row
from gpu.timing import seconds_of
from settings.packages import installed_version

_PACKAGES = ("triton", "transformers", "megatron-core", "deepspeed", "flash-attn", "numpy")


def measure(context: Context) -> Iterator[Row]:
    """Yields one row."""
    size = 64 if context.tiny else 8192
    a, b = (torch.randn(size, size, device=context.device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.empty(2**20 if context.tiny else 2**31, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    yield {
        "case": "machine",
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "cores": len(os.sched_getaffinity(0)),
        **{name: installed_version(name) for name in _PACKAGES},
        "product_tflops": round(2 * size**3 / seconds_of(lambda: torch.mm(a, b, out=product)) / 1e12, 1),
        "copy_gb_per_second": round(2 * len(source) / seconds_of(lambda: target.copy_(source)) / 1e9),
    }
