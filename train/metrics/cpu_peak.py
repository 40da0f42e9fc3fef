"""The peak FLOP/s of this machine's CPU in matrix products: measured once, then kept in a file.

The peak of a CPU stands on no data sheet: it depends on the vector units, on the clock under load, and on the threads.
A measurement of every start would make the MFU of two starts differ by as much as the machine was busy meanwhile.
"""

from __future__ import annotations

import contextlib
import math
import platform
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from settings import UserError
from settings.files import read_json, write_json
from train.metrics.gpu_peaks import Precision

FILE_NAME = "cpu_peaks.json"
_SIZES = (256, 512, 1024, 2048, 4096)  # small ones fit into caches, large ones keep many threads busy
_SECONDS_PER_SIZE, _SECONDS = 0.2, 1.0
_UNDISTURBED = 0.9  # share of the time in which all threads ran


@dataclass(frozen=True)
class CpuPeak:
    """FLOP/s of the threads together. `estimated`: other programs ran, so it is one thread's times their number."""

    flops: float
    estimated: bool


def find_cpu_peak(precision: Precision, folder: Path) -> CpuPeak:
    """Returns the peak of this process's threads: the one that `folder` keeps, else one that is measured now.

    An estimated one is kept until a later start can measure; each start tries.
    """
    path, key = folder / FILE_NAME, _key(precision, torch.get_num_threads())
    file = _read(path)
    kept = _parse(file.get(key))
    if kept is not None and not kept.estimated:
        return kept
    peak = measure_cpu_peak(precision)
    if kept is not None and peak.estimated:
        return kept
    with contextlib.suppress(OSError):  # the folder may be read-only
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {**file, key: {**asdict(peak), "date": date.today().isoformat()}})
    return peak


def measure_cpu_peak(precision: Precision) -> CpuPeak:
    """Measures square matrix products by this process's threads, in a second or two; the fastest counts.

    They are the products of a linear layer, x w^T. One thread always finds a moment of its own, several at once only
    on a machine that is free enough.
    """
    threads = torch.get_num_threads()
    flops, busy_share = _fastest(precision)
    if threads == 1 or busy_share >= _UNDISTURBED:
        return CpuPeak(flops, estimated=False)
    torch.set_num_threads(1)
    try:
        one_thread, _ = _fastest(precision)
    finally:
        torch.set_num_threads(threads)
    return CpuPeak(threads * one_thread, estimated=True)


def _fastest(precision: Precision) -> tuple[float, float]:
    """Returns the FLOP/s of the fastest product, and the share of the time in which all threads ran."""
    best, share = 0.0, 0.0
    end = time.perf_counter() + _SECONDS
    generator = torch.Generator().manual_seed(0)
    for size in _SIZES:
        left, right = (torch.randn(size, size, generator=generator).to(getattr(torch, precision)) for _ in range(2))
        torch.mm(left, right.T)  # threads and kernels start
        seconds, busy_share = _fastest_product(left, right)
        if 2.0 * size**3 / seconds > best:
            best, share = 2.0 * size**3 / seconds, busy_share
        if time.perf_counter() + 8 * seconds > end:  # a product of the next size would go beyond
            break
    return best, share


def _fastest_product(left: torch.Tensor, right: torch.Tensor) -> tuple[float, float]:
    """Returns the seconds of the fastest of several products, and the share of their time in which all threads ran."""
    began, began_cpu = time.perf_counter(), time.process_time()
    now, fastest = began, math.inf
    while now - began < _SECONDS_PER_SIZE:
        torch.mm(left, right.T)
        before, now = now, time.perf_counter()
        fastest = min(fastest, now - before)
    # Of all products together: the kernel counts the time of other threads in steps of milliseconds.
    return fastest, (time.process_time() - began_cpu) / (now - began) / torch.get_num_threads()


def _key(precision: Precision, threads: int) -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{_cpu_name()}, {capability}, {threads} threads, torch {torch.__version__}, {precision}"


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> dict[str, Any]:
    """Returns what the file holds; nothing if it is missing or damaged."""
    try:
        file = read_json(path)
    except UserError:
        return {}
    return file if isinstance(file, dict) else {}


def _parse(entry: Any) -> CpuPeak | None:
    flops = entry.get("flops") if isinstance(entry, dict) else None
    if not isinstance(flops, float) or not math.isfinite(flops) or flops <= 0:
        return None
    return CpuPeak(flops, estimated=entry.get("estimated") is not False)
