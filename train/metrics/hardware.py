"""The device's peak FLOP/s, which MFU is measured against, and its memory in use."""

from __future__ import annotations

import functools
import resource
import time
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]

# Dense bf16 matrix products with fp32 sums, TFLOP/s, from the vendors' data sheets (never the figure with sparsity).
# The longest name that the device's name contains counts.
BFLOAT16_TFLOPS = {
    "B200": 2250.0,
    "GB200": 2500.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "GH200": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "MI300X": 1307.4,
    "MI250X": 383.0,
}
_MEASURED_SECONDS = 0.3
_SMALLEST, _LARGEST = 512, 8192


def peak_flops(device: torch.device, precision: Precision) -> float:
    """Returns the peak floating-point operations per second of one rank's device.

    For a known GPU in bfloat16 they are in the table; else they are those of the fastest of repeated square matrix
    products, measured with this process's threads for 0.3 s at the first call.
    """
    if device.type == "cuda" and precision == "bfloat16":
        name = torch.cuda.get_device_name(device)
        for known in sorted(BFLOAT16_TFLOPS, key=len, reverse=True):
            if known in name:
                return BFLOAT16_TFLOPS[known] * 1e12
    return _measured_flops(device, precision, torch.get_num_threads())


def memory_bytes(device: torch.device) -> int:
    """Returns the most memory that this rank has held: torch's on the GPU, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@functools.cache
def _measured_flops(device: torch.device, precision: Precision, threads: int) -> float:
    end = time.perf_counter() + _MEASURED_SECONDS
    size, best = _SMALLEST, 0.0
    left = torch.ones(size, size, device=device, dtype=getattr(torch, precision))
    _product_seconds(left)  # threads and kernels start
    while best == 0.0 or time.perf_counter() < end:
        seconds = min(_product_seconds(left) for _ in range(3))
        best = max(best, 2.0 * size**3 / seconds)
        if size < _LARGEST and 3 * 8 * seconds < end - time.perf_counter():  # small products do not fill the device
            size *= 2
            left = torch.ones(size, size, device=device, dtype=left.dtype)
    return best


def _product_seconds(left: torch.Tensor) -> float:
    started = time.perf_counter()
    torch.mm(left, left)
    if left.device.type == "cuda":
        torch.cuda.synchronize(left.device)
    return time.perf_counter() - started
