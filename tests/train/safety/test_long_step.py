"""A stop in the midst of a long step: all ranks drop it, and the resumed run is the unbroken one to the bit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import run_ranks, store_of_ranks
from small_runs import make_shards, trajectory

from launcher.run.build_run import build_run
from launcher.run.config import RunConfig
from model.attention import AttentionMask
from parallel.build import ComputeConfig
from parallel.mesh import Mesh, make_mesh
from train.loop import train
from train.run_folder.folder import RunFolder
from train.run_folder.open_run import open_run
from train.run_folder.start_record import Start
from train.safety.watchdog import Watchdog

STEPS, SLOW_STEP, MICRO_BATCHES = 3, 2, 56


Outcome = tuple[bool, int, int]  # whether the run is done, its last step, micro-batches begun of the step after it


def outcomes_on_a_rank(unbroken: dict[str, Any], stopped: dict[str, Any]) -> list[Outcome]:
    """Trains a run that is not stopped, one that is stopped within a step, and that one again."""
    mesh = make_mesh(RunConfig.model_validate(unbroken).parallel, timeout_seconds=60)
    return [train_on_a_rank(unbroken, mesh), train_on_a_rank(stopped, mesh, slow=True), train_on_a_rank(stopped, mesh)]


def train_on_a_rank(plain: dict[str, Any], mesh: Mesh, *, slow: bool = False) -> Outcome:
    """If `slow`, a step has micro-batches of 0.3 s, and the last rank gets a SIGTERM before the third."""
    config = RunConfig.model_validate(plain)
    folder = RunFolder(config.run.path)
    lease = open_run(config.run.path, config, Start(world_size=mesh.world_size)) if mesh.rank == 0 else None
    dist.barrier()
    watchdog = Watchdog(60, lambda hang: None)
    run = build_run(
        config, mesh, folder, compute=ComputeConfig(), lease=lease, watchdog=watchdog, store=store_of_ranks()
    )
    make_mask, begun = run.make_mask, [0] * (STEPS + 1)

    def slowed(documents_BT: torch.Tensor) -> AttentionMask | None:
        begun[run.state.step] += 1
        if slow and run.state.step + 1 == SLOW_STEP:
            if begun[run.state.step] == 3 and mesh.rank == mesh.world_size - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        return make_mask(documents_BT)

    run.make_mask = slowed
    try:
        done = train(run)
    finally:
        run.metrics.close()
        run.loader.close()
        if lease is not None:
            lease.release()
    return done, run.state.step, begun[run.state.step]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("corpus"))


def settings(folder: Path, shards: Path, parallel: dict[str, Any], *, precision: str) -> dict[str, Any]:
    return {
        "run": {"name": "try", "folder": str(folder), "seed": 1},
        "data": {"shards": str(shards)},
        "model": {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 48},
        "parallel": parallel,
        "optim": {"name": "adamw", "lr": 3e-3},
        "schedule": {"name": "cosine", "warmup_steps": 1, "min_lr": 3e-4},
        "train": {
            **{"steps": STEPS, "seq_length": 16, "micro_batch_size": 1, "precision": precision},
            "global_batch_size": MICRO_BATCHES * parallel.get("data", 1),
        },
        "evaluate": {"every_steps": 1, "max_windows": 4},
        "checkpoint": {"every_steps": 0},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parallel", "precision"),
    [
        pytest.param({"data": 2, "zero": 1}, "float32", id="data"),
        pytest.param({"tensor": 2, "sequence": True}, "bfloat16", id="tensor"),
    ],
)
def test_the_dropped_step_is_taken_again_as_a_whole(
    tmp_path: Path, shards: Path, parallel: dict[str, Any], precision: str
) -> None:
    unbroken = settings(tmp_path / "unbroken", shards, parallel, precision=precision)
    stopped = settings(tmp_path / "stopped", shards, parallel, precision=precision)
    outcomes = run_ranks(2, outcomes_on_a_rank, unbroken, stopped)
    if parallel.get("tensor", 1) > 1:
        assert outcomes[0] == outcomes[1]  # tensor ranks have begun the same micro-batches
    for (*whole, _), (done, step, begun), (*resumed, _) in outcomes:
        assert whole == resumed == [True, STEPS]
        assert (done, step) == (False, SLOW_STEP - 1)
        assert 3 <= begun < MICRO_BATCHES / 2
    checkpoints = tmp_path / "stopped" / "try" / "checkpoints"
    assert [path.name for path in sorted(checkpoints.glob("step-*"))] == [
        f"step-{n:08}" for n in (SLOW_STEP - 1, STEPS)
    ]
    assert trajectory(tmp_path / "stopped" / "try") == trajectory(tmp_path / "unbroken" / "try")
    assert tensors(tmp_path / "stopped") == tensors(tmp_path / "unbroken")


def tensors(folder: Path) -> dict[str, bytes]:
    files = (folder / "try" / "checkpoints" / f"step-{STEPS:08}").glob("*.safetensors")
    found = {path.name: path.read_bytes() for path in files}
    assert found
    return found
