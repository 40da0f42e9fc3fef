"""A new module with sharded and shared vectors, in one file, trains and is saved under tensor parallelism as alone.

A vector that is sharded and declared as full is caught at the first save.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
import torch.distributed as dist
from parallel_runs import (
    Trial,
    all_on_a_rank,
    global_batches,
    local_micro_batches,
    merged,
    oracle,
    ranks_of,
    start,
)
from processes import RanksFailedError, run_ranks
from torch import Tensor, nn

from model.init_schemes import INITS
from model.layers import Layers
from model.mlps import MLPS, MLPConfig
from model.norms import NORMS
from model.objectives import OBJECTIVES
from model.position import POSITIONS
from model.recompute import RecomputeContext, saving
from parallel.config import ParallelConfig
from parallel.mesh import make_mesh
from parallel.parameter_shards import assert_full_parameters_agree
from train.checkpoint.manager import CheckpointManager
from train.checkpoint.manifest import read_manifest
from train.checkpoint.weights_only import Weights
from train.checkpoint.writer_lease import WriterLease
from train.state import TrainState

STEPS = 4


class GainedMLP(nn.Module):
    """down(gain · tanh(slope · up(x))), with a gain for each feature and one slope for all."""

    def __init__(self, hidden_size: int, ffn_size: int, *, bias: bool, layers: Layers, declared: bool) -> None:
        super().__init__()
        self.up = layers.column(hidden_size, ffn_size, bias=bias)
        self.slope = layers.vector(1, init=0.5, gradient="partial")
        if declared:
            self.gain = layers.vector(ffn_size, init=1.0, sharded=True)
        else:
            self.gain = layers.vector(ffn_size // layers.tp_size, init=1.0)
        self.down = layers.row(ffn_size, hidden_size, bias=bias)
        self._layers = layers

    def forward(self, x_tBD: Tensor) -> Tensor:
        (up_TBf,) = self._layers.project(x_tBD, (self.up,))
        out_tBD: Tensor = self.down(self.gain * torch.tanh(self.slope * up_TBf))
        return out_tBD


class GainedConfig(MLPConfig):
    declared: ClassVar[bool] = True

    name: Literal["gained"] = "gained"

    def build(
        self,
        hidden_size: int,
        ffn_size: int,
        *,
        bias: bool,
        layers: Layers,
        save_or_recompute: RecomputeContext = saving,
    ) -> nn.Module:
        return GainedMLP(hidden_size, ffn_size, bias=bias, layers=layers, declared=self.declared)

    def matrices(self) -> int:
        return 2


class UndeclaredConfig(GainedConfig):
    declared: ClassVar[bool] = False

    name: Literal["undeclared"] = "undeclared"  # type: ignore[assignment]


def train_and_save(folder: Path, parallel: dict[str, Any], mlp: str) -> list[float]:
    """Returns a rank's losses of a few steps, and saves a checkpoint after them."""
    for config_class in (GainedConfig, UndeclaredConfig):
        MLPS.register(config_class)
    trial = Trial(model={"mlp": mlp, "bias": True}, parallel=parallel, steps=STEPS)
    mesh, parts = start(trial)
    losses = []
    for _, batch in zip(range(STEPS), global_batches(), strict=False):
        result = parts.engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=trial.optimizer.lr)
        losses.append(result.nll / int(batch.mask.sum()))
    lease = WriterLease.take(folder) if mesh.rank == 0 else None
    checkpoints = CheckpointManager(folder, mesh, model=trial.model_config().to_plain(), lease=lease)
    checkpoints.save(parts.engine, TrainState(step=STEPS))
    checkpoints.wait()
    dist.barrier()
    return losses


def saved(folder: Path, parallel: dict[str, Any]) -> tuple[list[float], dict[str, Tensor]]:
    folder.mkdir()
    losses = run_ranks(ranks_of(parallel), train_and_save, folder, parallel, "gained", timeout=120)[0]
    checkpoint = folder / f"step-{STEPS:08d}"
    weights = Weights(checkpoint, read_manifest(checkpoint))
    return losses, {name: weights.read(name) for name in weights.shapes}


@pytest.mark.slow
def test_a_new_mlp_with_a_sharded_vector_is_trained_and_saved_as_on_one_process(tmp_path: Path) -> None:
    wanted_losses, wanted = saved(tmp_path / "one", {})
    assert wanted["layers.0.mlp.gain"].shape == (96,)
    assert wanted["layers.0.mlp.gain"].std() > 0
    assert wanted["layers.0.mlp.slope"] != 0.5
    for name, layout in {"plain": {"tensor": 2}, "sequence": {"tensor": 2, "sequence": True}}.items():
        losses, found = saved(tmp_path / name, layout)
        assert losses == pytest.approx(wanted_losses, rel=1e-5)
        assert {key: weight.shape for key, weight in found.items()} == {key: w.shape for key, w in wanted.items()}
        for key, weight in wanted.items():
            if ".attention.k.bias" not in key:  # softmax does not see it: Adam makes whole steps of its rounding
                assert (found[key] - weight).norm() <= 1e-4 * weight.norm().clamp_min(1e-12), key


@pytest.mark.slow
def test_every_registered_method_trains_under_tensor_and_sequence_parallelism_as_on_one_process() -> None:
    registries = {"norm": NORMS, "mlp": MLPS, "position": POSITIONS, "objective": OBJECTIVES, "init": INITS}
    trials = {
        f"{key} {name}": Trial(model={key: name, "bias": True}, parallel={"tensor": 2, "sequence": True}, steps=3)
        for key, registry in registries.items()
        for name in registry.names()
    }
    by_rank = run_ranks(2, all_on_a_rank, trials, timeout=240)
    for method, trial in trials.items():
        found, wanted = merged([rank[method] for rank in by_rank]), oracle(trial)
        assert found.losses == pytest.approx(wanted.losses, rel=1e-5), method
        assert found.grad_norms == pytest.approx(wanted.grad_norms, rel=1e-4), method
        assert {k: w.shape for k, w in found.weights.items()} == {k: w.shape for k, w in wanted.weights.items()}


def test_a_sharded_vector_that_is_declared_as_full_is_caught_at_the_first_save(tmp_path: Path) -> None:
    with pytest.raises(RanksFailedError, match=r"declared as full.*layers\.0\.mlp\.gain by .*sharded=True"):
        run_ranks(2, train_and_save, tmp_path, {"tensor": 2}, "undeclared", timeout=120)


def compare_on_a_rank(change: float) -> str:
    mesh = make_mesh(ParallelConfig(tensor=2), timeout_seconds=60)
    full = {"table": torch.linspace(-2, 2, 5000), "zeros": torch.zeros(3), "gain": torch.ones(7)}
    full["gain"][3] += change * mesh.rank
    try:
        assert_full_parameters_agree(full, mesh.tensor, mesh.device)
    except AssertionError as error:
        return str(error)
    return ""


def test_rounding_is_no_difference() -> None:
    assert run_ranks(2, compare_on_a_rank, 1e-5) == ["", ""]
    for said in run_ranks(2, compare_on_a_rank, 0.01):
        assert "tensor ranks: gain by 0.01;" in said
