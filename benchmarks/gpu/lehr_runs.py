"""Runs of `lehr train` that a phase starts, and what their metrics say."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu.context import Context, Row
from gpu.models import model_of
from gpu.processes import lehr
from gpu.sizes import PEAK_FLOPS, Size


def write_config(context: Context, size: Size) -> Path:
    """Writes the config of a size, which overrides change: 14 steps of two micro-batches, no evaluation, no masks."""
    micro = size.micro_batch_size
    plain = {
        "run": {"name": "run", "folder": str(context.folder / "runs"), "seed": 1},
        "data": {"shards": str(context.shards), "verify_hashes": False, "document_masking": False},
        "model": model_of(size).to_plain(),
        "optim": {"name": "adamw", "lr": 3e-4},
        "schedule": {"name": "constant", "warmup_steps": 2},
        "train": {
            "steps": 14,
            "seq_length": context.seq_length,
            "micro_batch_size": micro,
            "global_batch_size": 2 * micro,
            "precision": "bfloat16",
        },
        "evaluate": {"every_steps": 0, "max_windows": 1},
        "checkpoint": {"every_steps": 0},
    }
    path = context.folder / "config.yaml"
    path.write_text(json.dumps(plain))
    return path


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Returns `section.key=value` for each entry."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def train_command(config: Path, name: str, values: Mapping[str, Any]) -> list[object]:
    """Returns the command that trains a run of this name."""
    return lehr("train", config, f"run.name={name}", *overrides(values))


def read_steps(run: Path) -> list[Row]:
    """Returns the lines of metrics.jsonl that are steps, as far as the run has come."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if "loss" in row]


def speed_of(steps: Sequence[Row], *, warm: int, without: int | None = None) -> Row:
    """Returns the medians over the steps after the first `warm`, without one step, and the first step's seconds."""
    timed = [row for row in steps[warm:] if row["step"] != without]
    return {
        "steps": len(steps),
        "tokens_per_second": round(statistics.median(row["tokens_per_second"] for row in timed)),
        "step_seconds": round(statistics.median(row["seconds_per_step"] for row in timed), 4),
        "first_step_seconds": round(steps[0]["seconds_per_step"], 1),
        "memory_gib": round(max(row["memory_bytes"] for row in steps) / 2**30, 2),
        "loss": round(steps[-1]["loss"], 4),
    }


def mfu(tokens_per_second: float, flops_per_token: float) -> float:
    """Returns the percentage of the peak that a speed is, by the FLOPs that lehr counts."""
    return round(100 * tokens_per_second * flops_per_token / PEAK_FLOPS, 1)
