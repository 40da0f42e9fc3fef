"""A norm and an MLP are one file each: dropped into a copy of the rooms, they run through the contract tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from drop_in import copy_rooms, run_contracts

NORM = '''
"""Root of the mean absolute value: y = scale · weight · x / (mean(|x|) + eps)."""

from typing import Literal

import torch
from torch import Tensor, nn

from model.norms import NORMS, NormConfig
from model.parameter import ParamSpec, declare


class MeanAbsNorm(nn.Module):
    def __init__(self, size: int, *, eps: float, scale: float) -> None:
        super().__init__()
        self.eps, self.scale = eps, scale
        self.weight = declare(torch.empty(size), ParamSpec(init=1.0, scale=scale))

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        wide = x.to(dtype)
        normal = wide / (wide.abs().mean(-1, keepdim=True) + self.eps)
        return (normal * self.weight.to(dtype) * self.scale).to(x.dtype)


@NORMS.register
class MeanAbsConfig(NormConfig):
    name: Literal["mean_abs"] = "mean_abs"

    def build(self, size: int, *, bias: bool, scale: float = 1.0) -> MeanAbsNorm:
        return MeanAbsNorm(size, eps=self.eps, scale=scale)
'''
MLP = '''
"""Squared ReLU: down(relu(up(x))²) (arXiv 2109.08668)."""

from typing import Literal

from torch import Tensor, nn

from model.layers import Layers
from model.mlps import MLPS, MLPConfig
from model.recompute import RecomputeContext, saving


class SquaredReLU(nn.Module):
    def __init__(self, hidden_size: int, ffn_size: int, *, bias: bool, layers: Layers) -> None:
        super().__init__()
        self.up = layers.column(hidden_size, ffn_size, bias=bias)
        self.down = layers.row(ffn_size, hidden_size, bias=bias)
        self._layers = layers

    def forward(self, x_tBD: Tensor) -> Tensor:
        (up_TBf,) = self._layers.project(x_tBD, (self.up,))
        out_tBD: Tensor = self.down(nn.functional.relu(up_TBf).square())
        return out_tBD


@MLPS.register
class SquaredReLUConfig(MLPConfig):
    name: Literal["squared_relu"] = "squared_relu"

    def build(
        self,
        hidden_size: int,
        ffn_size: int,
        *,
        bias: bool,
        layers: Layers,
        save_or_recompute: RecomputeContext = saving,
    ) -> nn.Module:
        return SquaredReLU(hidden_size, ffn_size, bias=bias, layers=layers)

    def matrices(self) -> int:
        return 2
'''


@pytest.mark.slow
def test_a_file_in_model_is_all_that_a_new_norm_or_mlp_takes(tmp_path: Path) -> None:
    files = {"model/mean_abs.py": NORM, "model/squared_relu.py": MLP}
    rooms = ("model", "settings", "optim", "parallel", "tests/model", "tests/parallel")
    folder = copy_rooms(tmp_path, *rooms, files=files)
    tests = ["tests/model/test_norms.py", "tests/model/test_mlps.py", "tests/parallel/test_parameter_shards.py"]
    code, found, output = run_contracts(folder, tests, keyword="mean_abs or squared_relu")
    assert code == 0, output
    for name in ("mean_abs", "squared_relu"):
        assert sum(name in test for test in found["PASSED"]) >= 5, output
