"""The reader of a torch.profiler trace of one step: its kernels, how long they keep the device busy, the longest."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gpu.context import Row

ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
_TOP = 10


def read_profile(run: Path, categories: Collection[str] = ON_GPU) -> Row:
    """Returns the numbers of the run's profiled step, whose trace `train.profile` has written."""
    (path,) = (run / "profile").glob("steps-*/rank-00000.pt.trace.json.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return profile_of(json.load(file)["traceEvents"], categories)


def profile_of(events: list[dict[str, Any]], categories: Collection[str]) -> Row:
    """Returns launches, busy ms (overlapping kernels count once), the idle share of the time, and the longest kernels.

    The time is that from the first kernel's start to the last one's end. `host_reads` are copies to the host, for which
    it waits.
    """
    kernels = [event for event in events if event.get("ph") == "X" and event.get("cat") in categories]
    if not kernels:
        return {"kernels": 0}
    times = sorted((float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in kernels)
    busy, end = 0.0, times[0][0]
    for start, its_end in times:
        busy += max(0.0, its_end - max(start, end))
        end = max(end, its_end)
    total = end - times[0][0]
    by_name: dict[str, list[float]] = defaultdict(list)
    for event in kernels:
        by_name[event["name"]].append(float(event["dur"]))
    longest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:_TOP]
    return {
        "kernels": len(kernels),
        "host_reads": sum("DtoH" in event["name"] for event in kernels),
        "busy_ms": round(busy / 1000, 2),
        "idle_percent": round(100 * (1 - busy / total), 1) if total else 0.0,
        "longest": [[name[:100], round(sum(times) / 1000, 2), len(times)] for name, times in longest],
    }
