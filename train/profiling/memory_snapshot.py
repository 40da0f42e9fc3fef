"""A snapshot of the CUDA allocator's memory: every allocation of the profiled steps, with the stack that made it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

_MOST_EVENTS = 200_000  # the oldest allocations of a longer history are forgotten


def start_memory_history() -> None:
    """Begins to record allocations and frees, with Python's stacks."""
    torch.cuda.memory._record_memory_history(max_entries=_MOST_EVENTS, stacks="python")


def stop_memory_history() -> None:
    """Ends the recording and drops what was recorded."""
    torch.cuda.memory._record_memory_history(enabled=None)


def take_memory_snapshot() -> dict[str, Any]:
    """Returns the allocator's segments and the recorded history, as plain values."""
    snapshot: dict[str, Any] = torch.cuda.memory._snapshot()
    return snapshot


def write_memory_snapshot(snapshot: dict[str, Any], *, json_path: Path, html_path: Path) -> None:
    """Writes a snapshot as JSON, and as the page that torch draws of it. Raises OSError."""
    json_path.write_text(json.dumps(snapshot, default=str), encoding="utf-8")
    from torch.cuda._memory_viz import trace_plot

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        html_path.write_text(trace_plot(snapshot), encoding="utf-8")
