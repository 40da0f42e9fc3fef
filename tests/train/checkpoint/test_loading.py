"""A checkpoint is loaded into the engine's own tensors, however they are sharded, as torch's reader loads it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from parallel_runs import Trial, made_up, ranks_of, start
from processes import run_ranks
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from parallel.parameter_shards import shard_of
from train.checkpoint.manager import CheckpointManager
from train.checkpoint.manifest import read_manifest
from train.checkpoint.writer_lease import WriterLease
from train.state import TrainState

SMALL = {"num_layers": 1, "hidden_size": 16, "num_kv_heads": 4, "ffn_size": 24}


def save_made_up(folder: Path, trial: Trial) -> None:
    """Fills the engine's state with made-up tensors, and saves it."""
    mesh, parts = start(trial)
    for name, part in parts.engine.state(saving=False).items():
        part.fill(shard_of(made_up(name, part.full_shape(mesh.tensor.size)), part.dim, mesh.tensor))
    parts.engine.loaded(optimizer_steps=1)
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
    wrong = []
    for name, part in parts.engine.state(saving=False).items():
        full = made_up(name, part.full_shape(mesh.tensor.size))
        same = all(
            torch.equal(box, full[tuple(slice(o, o + n) for o, n in zip(offsets, box.shape, strict=True))])
            for offsets, box in part.boxes(mesh.tensor.rank)
        )
        if part.tensor.data_ptr() != before[name] or not same:
            wrong.append(name)
    return wrong


LAYOUTS: dict[str, dict[str, int]] = {
    "one": {},
    "tensor2": {"tensor": 2},
    "tensor4": {"tensor": 4},
    "data3-zero2": {"data": 3, "zero": 2},
    "data3-zero3": {"data": 3, "zero": 3},
    "tensor2-data2-zero2": {"tensor": 2, "data": 2, "zero": 2},
    "tensor2-data2-zero3": {"tensor": 2, "data": 2, "zero": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("one", ["tensor2", "tensor4", "data3-zero2", "data3-zero3", "tensor2-data2-zero2", "tensor2-data2-zero3"]),
        ("tensor2", ["one", "tensor4", "data3-zero3"]),
        ("data3-zero2", ["one"]),
        ("data3-zero3", ["tensor2", "tensor2-data2-zero2"]),
        ("tensor2-data2-zero3", ["tensor4", "data3-zero2"]),
    ],
)
def test_every_layout_is_loaded_in_place_and_read_by_torch(before: str, after: list[str], tmp_path: Path) -> None:
    run_ranks(ranks_of(LAYOUTS[before]), save_made_up, tmp_path, Trial(parallel=LAYOUTS[before], model=SMALL))
    for layout in after:
        ranks = ranks_of(LAYOUTS[layout])
        other = Trial(parallel=LAYOUTS[layout], model=SMALL)
        assert run_ranks(ranks, load_made_up, tmp_path, other) == [[]] * ranks
    shapes = read_manifest(tmp_path / "step-00000001").tensors
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that no process group is there, which is meant
        load(tensors, storage_reader=HuggingFaceStorageReader(str(tmp_path / "step-00000001")), no_dist=True)
    assert all(torch.equal(tensor, made_up(name, shapes[name])) for name, tensor in tensors.items())
