"""A checkpoint is loaded into the engine's own tensors, however they are sharded, as torch's reader loads it."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from parallel_runs import Trial, start
from processes import run_ranks
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from parallel.parameter_shards import shard_of
from train.checkpoint.manager import CheckpointManager
from train.checkpoint.manifest import read_manifest
from train.checkpoint.writer_lease import WriterLease
from train.state import TrainState

SMALL = {"num_layers": 1, "hidden_size": 16, "num_kv_heads": 4, "ffn_size": 24}


def made_up(name: str, shape: tuple[int, ...]) -> Tensor:
    """Returns a full tensor that no engine holds by itself."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def save_made_up(folder: Path, trial: Trial) -> None:
    """Fills the engine's state with made-up tensors, and saves it."""
    mesh, parts = start(trial)
    for name, part in parts.engine.state(saving=False).items():
        part.tensor.copy_(shard_of(made_up(name, part.full_shape(mesh.tensor.size)), part.dim, mesh.tensor))
    lease = WriterLease.take(folder) if mesh.rank == 0 else None
    checkpoints = CheckpointManager(folder, mesh, model=trial.model_config().to_plain(), lease=lease)
    checkpoints.save(parts.engine, TrainState(step=1))
    checkpoints.wait()
    dist.barrier()


def load_made_up(folder: Path, trial: Trial) -> list[str]:
    """Returns the names of the tensors that were not filled in place with the saved values."""
    mesh, parts = start(trial)
    before = {name: part.tensor.data_ptr() for name, part in parts.engine.state(saving=False).items()}
    CheckpointManager(folder, mesh, model=trial.model_config().to_plain()).load(parts.engine, folder / "step-00000001")
    return [
        name
        for name, part in parts.engine.state(saving=False).items()
        if part.tensor.data_ptr() != before[name]
        or not torch.equal(
            part.tensor, shard_of(made_up(name, part.full_shape(mesh.tensor.size)), part.dim, mesh.tensor)
        )
    ]


@pytest.mark.slow
@pytest.mark.parametrize("tensor", [1, 2])
def test_every_cut_is_loaded_in_place_and_read_by_torch(tensor: int, tmp_path: Path) -> None:
    trial = Trial(parallel={"tensor": tensor}, model=SMALL)
    run_ranks(tensor, save_made_up, tmp_path, trial)
    for ranks in {1, 2, 4} - {tensor}:
        other = Trial(parallel={"tensor": ranks}, model=SMALL)
        assert run_ranks(ranks, load_made_up, tmp_path, other) == [[]] * ranks
    shapes = read_manifest(tmp_path / "step-00000001").tensors
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that no process group is there, which is meant
        load(tensors, storage_reader=HuggingFaceStorageReader(str(tmp_path / "step-00000001")), no_dist=True)
    assert all(torch.equal(tensor, made_up(name, shapes[name])) for name, tensor in tensors.items())
