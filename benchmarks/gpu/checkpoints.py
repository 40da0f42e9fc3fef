"""Checkpoints: how long a save holds the loop, and whether a run that is killed goes on to the same bits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from gpu.context import Context, Row
from gpu.lehr_runs import read_steps, train_command, write_config
from gpu.models import model_of
from gpu.processes import TIME_LIMIT, kill, start, wait
from optim.adamw import AdamWConfig
from parallel.build import ComputeConfig, build
from parallel.config import ParallelConfig
from parallel.mesh import make_mesh, start_processes, stop_processes
from train.checkpoint.manager import CheckpointManager
from train.checkpoint.writer_lease import WriterLease
from train.config import CheckpointConfig, TrainConfig
from train.state import TrainState

_STEPS, _EVERY, _KILLED_AFTER = 10, 4, 6


def measure(context: Context) -> Iterator[Row]:
    """Yields the seconds of a save of 160M, then the comparison of an unbroken, a repeated and a killed run."""
    yield _held(context)
    yield from _resumed(context, _start_runs(context))


def _held(context: Context) -> Row:
    model = model_of(context.size("160M"))
    start_processes(rank=0, world_size=1, gpu=0, timeout_seconds=600, store=dist.HashStore())  # type: ignore[attr-defined]
    mesh = make_mesh(ParallelConfig(), timeout_seconds=600)
    parts = build(
        model,
        ParallelConfig(),
        AdamWConfig(lr=1e-3),
        mesh,
        compute=ComputeConfig("bfloat16"),
        seq_length=context.seq_length,
        micro_batches=1,
        seed=0,
        total_steps=1,
    )
    parts.draw_weights()
    folder = context.folder / "held"
    manager = CheckpointManager(
        folder, mesh, model=model.to_plain(), retention=CheckpointConfig(keep_last=1), lease=WriterLease.take(folder)
    )
    held, written = [], []
    for step in (1, 2):
        if mesh.device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        manager.save(parts.engine, TrainState(step=step))
        held.append(round(time.perf_counter() - began, 3))
        manager.wait()
        written.append(round(time.perf_counter() - began, 3))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    stop_processes()
    return {"case": "save of 160M", "held_seconds": held, "written_seconds": written, "gib": round(size / 2**30, 2)}


def _start_runs(context: Context) -> dict[str, Any]:
    """Starts three runs with one seed. Determinism is asked for if the config knows it."""
    size = context.size("160M")
    values: dict[str, Any] = {
        "train.steps": _STEPS,
        "train.micro_batch_size": 2,
        "train.global_batch_size": 4,
        "checkpoint.every_steps": _EVERY,
        "data.document_masking": True,
    }
    if "deterministic" in TrainConfig.model_fields:
        values["train.deterministic"] = True
    config = write_config(context, size)
    commands = {name: train_command(config, name, values) for name in ("unbroken", "repeated", "killed")}
    return {name: (command, start(command, context.folder / f"{name}.log")) for name, command in commands.items()}


def _resumed(context: Context, runs: dict[str, Any]) -> Iterator[Row]:
    folders = {name: context.folder / "runs" / name for name in runs}
    command, process = runs["killed"]
    while len(read_steps(folders["killed"])) < _KILLED_AFTER and context.seconds_left > 0 and process.poll() is None:
        time.sleep(0.02)
    kill(process)
    killed_at = len(read_steps(folders["killed"]))
    resumed = wait(start(command, context.folder / "resumed.log"), context.seconds_left)
    codes = {name: wait(runs[name][1], context.seconds_left) for name in ("unbroken", "repeated")}
    losses = {name: [row["loss"] for row in read_steps(folder)] for name, folder in folders.items()}
    deterministic = "deterministic" in TrainConfig.model_fields
    for name, code in (("repeated", codes["repeated"]), ("killed", resumed)):
        row: Row = {
            "case": f"{name} run against the unbroken one",
            "deterministic": deterministic,
            **({"killed_after_step": killed_at} if name == "killed" else {}),
        }
        pairs = list(zip(losses["unbroken"], losses[name], strict=False))
        if code == 0 and codes["unbroken"] == 0 and len(pairs) == _STEPS:
            difference = max(abs(a - b) for a, b in pairs)
            yield {**row, "largest_difference": float(f"{difference:.1e}"), "equal": difference == 0.0}
        else:
            log = context.folder / ("resumed.log" if name == "killed" else f"{name}.log")
            outcome = code if code == TIME_LIMIT else f"ended with {code} after {len(pairs)} steps"
            yield {**row, "outcome": outcome, "output": log.read_text(errors="replace")[-600:]}
