"""A snapshot of CUDA's memory as files: of a small one made by hand on a CPU, of a real one on a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from train.profiling.memory_snapshot import (
    start_memory_history,
    stop_memory_history,
    take_memory_snapshot,
    write_memory_snapshot,
)


def made_by_hand() -> dict[str, Any]:
    """Returns a snapshot of one block of 512 bytes, allocated and still alive."""
    frames = [{"filename": "train/loop.py", "name": "train", "line": 1}]
    block = {"size": 512, "requested_size": 500, "address": 1024, "state": "active_allocated", "frames": frames}
    segment = {
        "device": 0,
        "address": 1024,
        "total_size": 2048,
        "allocated_size": 512,
        "active_size": 512,
        "requested_size": 500,
        "stream": 0,
        "segment_type": "small",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": frames,
        "blocks": [block],
    }
    event = {"action": "alloc", "addr": 1024, "size": 512, "stream": 0, "time_us": 5, "frames": frames}
    return {"segments": [segment], "device_traces": [[event]], "allocator_settings": {}, "external_annotations": []}


def test_a_snapshot_is_written_as_json_and_as_a_page(tmp_path: Path) -> None:
    snapshot = made_by_hand()
    write_memory_snapshot(snapshot, json_path=tmp_path / "a.json", html_path=tmp_path / "a.html")
    plain = json.loads((tmp_path / "a.json").read_text())
    assert plain["segments"][0]["blocks"][0]["requested_size"] == 500
    assert plain["device_traces"] == snapshot["device_traces"]
    assert "<script" in (tmp_path / "a.html").read_text()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_snapshot_has_the_allocations_made_meanwhile(tmp_path: Path) -> None:
    start_memory_history()
    kept = torch.zeros(3 << 20, device="cuda")
    snapshot = take_memory_snapshot()
    stop_memory_history()
    del kept
    write_memory_snapshot(snapshot, json_path=tmp_path / "a.json", html_path=tmp_path / "a.html")
    plain = json.loads((tmp_path / "a.json").read_text())
    events = [event for trace in plain["device_traces"] for event in trace if event["action"] == "alloc"]
    made_here = [event for event in events if any(frame["filename"] == __file__ for frame in event["frames"])]
    assert max(event["size"] for event in made_here) >= 12 << 20
