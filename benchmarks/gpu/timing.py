"""Time, memory and kernels of a call on the device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from gpu.context import Row


def seconds_of(run: Callable[[], object], *, repeats: int = 10) -> float:
    """Returns the mean seconds of a call, after three calls that warm up. On a GPU its events measure the time."""
    cuda = torch.cuda.is_available()
    for _ in range(3):
        run()
    if not cuda:
        began = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - began) / repeats
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()  # type: ignore[no-untyped-call]
    for _ in range(repeats):
        run()
    end.record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000 / repeats


def cost_of(run: Callable[[], object]) -> Row:
    """Returns the milliseconds of a call; on a GPU also the memory that it adds at its peak and its longest kernels."""
    found: Row = {"ms": round(1000 * seconds_of(run), 3)}
    if not torch.cuda.is_available():
        return found
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    found["peak_mib"] = round((torch.cuda.max_memory_allocated() - before) / 2**20)
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        run()
        torch.cuda.synchronize()
    kernels = sorted(trace.key_averages(), key=lambda each: -each.self_device_time_total)
    found["launches"] = sum(each.count for each in kernels)
    found["longest"] = [each.key[:80] for each in kernels[:4]]
    return found
