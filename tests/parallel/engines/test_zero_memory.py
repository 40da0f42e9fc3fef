"""What a rank holds while it builds, saves and loads falls with the number of data ranks, under ZeRO 2 and 3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch.distributed as dist
from live_memory import LiveMemory
from parallel_runs import Trial, allocated
from processes import run_ranks

from model.size import parameters
from train.checkpoint.manager import CheckpointManager
from train.checkpoint.writer_lease import WriterLease
from train.state import TrainState

# Many equal matrices: what is held of one tensor at a time is little beside the model.
MODEL = {"num_layers": 16, "hidden_size": 64, "num_heads": 4, "num_kv_heads": 4, "ffn_size": 64}
SLACK = 1.05


@dataclass(frozen=True)
class MostBytes:
    """The most bytes of tensors that a rank makes and holds at a time, in each part of a start and of a save."""

    build: int
    save: int
    load: int


def _most_bytes(folder: Path, trial: Trial) -> MostBytes:
    with LiveMemory() as build:
        mesh, parts = allocated(trial)
    parts.draw_weights()
    lease = WriterLease.take(folder) if mesh.rank == 0 else None
    checkpoints = CheckpointManager(folder, mesh, model=trial.model_config().to_plain(), lease=lease)
    with LiveMemory() as save:
        checkpoints.save(parts.engine, TrainState(step=1))
    checkpoints.wait()
    dist.barrier()
    with LiveMemory() as load:
        checkpoints.load(parts.engine, folder / "step-00000001")
    return MostBytes(build.most, save.most, load.most)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_what_a_rank_holds_falls_with_the_data_ranks(zero: int, tmp_path: Path) -> None:
    for data in (1, 2, 4):
        trial = Trial(model=MODEL, parallel={"data": data, "zero": zero}, compute={"precision": "bfloat16"})
        count = parameters(trial.model_config(), seq_length=32)
        # Bytes of a parameter. ZeRO 2: weights, masters and two moments; before that the weights twice, and masters.
        # ZeRO 3: the buffer in which gradients are reduced; weights, masters and moments, and the masters' source.
        build = max(2 + 12 / data, 4 + 4 / data) if zero == 2 else 4 + 18 / data
        for most in run_ranks(data, _most_bytes, tmp_path / str(data), trial):
            assert most.build < SLACK * build * count
            assert most.save < SLACK * 2 * 12 / data * count  # float32 masters and moments, and the writer's copy
            assert most.load < 0.2 * count * 12 / data  # straight into the engine's tensors
