"""The peak FLOP/s of a rank's device, which MFU is measured against, and its memory in use."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

import torch

from train.metrics.cpu_peak import FILE_NAME, find_cpu_peak
from train.metrics.gpu_peaks import GPU_TFLOPS, Precision


@dataclass(frozen=True)
class Peak:
    """The peak of one rank's device, if it is known, and where it is from."""

    flops: float | None  # floating-point operations per second
    origin: str


def find_peak(device: torch.device, precision: Precision, cache_folder: Path) -> Peak:
    """Returns the peak of one rank's device in matrix products: a GPU's from the table, the CPU's as measured."""
    if device.type == "cuda":
        return gpu_peak(torch.cuda.get_device_name(device), precision)
    peak = find_cpu_peak(precision, cache_folder)
    threads = f"{torch.get_num_threads()} threads" if torch.get_num_threads() > 1 else "1 thread"
    if peak.estimated:
        return Peak(peak.flops, f"{threads} times one thread's in {precision}: the CPU is too busy to measure all")
    return Peak(peak.flops, f"the fastest {precision} product of {threads}, kept in {cache_folder / FILE_NAME}")


def gpu_peak(name: str, precision: Precision) -> Peak:
    """Returns the peak of the GPU that torch calls `name`; its FLOP/s are None if the table does not have it."""
    tflops = GPU_TFLOPS.get(name, {}).get(precision)
    if tflops is None:
        return Peak(None, f'"{name}" in {precision} is not in the table of train/metrics/gpu_peaks.py')
    return Peak(tflops * 1e12, f"{name} in {precision}, by its data sheet")


def reset_peak_memory(device: torch.device) -> None:
    """Begins to measure anew, on a GPU: what the build held for a moment is not what training needs."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory_bytes(device: torch.device) -> int:
    """Returns the most memory that this rank has held: torch's on the GPU since the build, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
