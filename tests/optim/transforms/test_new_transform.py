"""A new transform and a new pruning criterion are one file each: dropped in, the contract tests find and test them."""

from __future__ import annotations

from pathlib import Path

import pytest
from drop_in import copy_rooms, run_contracts

ROOMS = ("optim", "settings", "model", "parallel")

CLAMP = '''
"""Clamps weights to [-limit, limit] after each update, and counts in how many steps it had to."""

from collections.abc import Sequence
from typing import Literal

import torch

from optim.parameters import Param, StateTensor
from optim.transforms.base import TRANSFORMS, TransformConfig, TransformInputs, UpdateTransform


@TRANSFORMS.register
class ClampConfig(TransformConfig):
    name: Literal["clamp"] = "clamp"
    limit: float = 0.05

    def build(self, inputs: TransformInputs) -> "Clamp":
        return Clamp(self.limit, inputs)


class Clamp(UpdateTransform):
    def __init__(self, limit: float, inputs: TransformInputs) -> None:
        self._limit = limit
        self._dims = {param.name: param.dim for param in inputs.params}
        self._clamped = {param.name: torch.zeros_like(param.weight.detach()) for param in inputs.params}

    def begin_step(self, step: int) -> None:
        pass

    def before_update(self, params: Sequence[Param]) -> None:
        pass

    @torch.no_grad()
    def after_update(self, params: Sequence[Param]) -> None:
        for param in params:
            self._clamped[param.name] += param.weight.abs() > self._limit
            param.weight.clamp_(-self._limit, self._limit)

    def state(self) -> dict[str, StateTensor]:
        return {f"{name}.clamped": StateTensor(count, self._dims[name]) for name, count in self._clamped.items()}
'''

RANDOM = '''
"""A criterion without sense: the fractional part of the weight."""

from typing import Literal

from torch import Tensor

from optim.pruning.criteria.base import CRITERIA, CriterionConfig


@CRITERIA.register
class FractionConfig(CriterionConfig):
    name: Literal["fraction"] = "fraction"

    def scores(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        return (1000 * weight.abs()).frac()
'''


@pytest.mark.slow
def test_a_file_is_all_that_a_new_transform_or_criterion_takes(tmp_path: Path) -> None:
    files = {"optim/transforms/clamp.py": CLAMP, "optim/pruning/criteria/fraction.py": RANDOM}
    folder = copy_rooms(tmp_path, *ROOMS, "tests/optim", "tests/parallel", files=files)
    tests = ["tests/optim/transforms", "tests/parallel/engines/test_transforms_in_layouts.py"]
    code, found, output = run_contracts(folder, tests, keyword="clamp or fraction or one_process")
    assert code == 0, output
    names = {test.partition("[")[0] for test in found["PASSED"]}
    assert "test_masks_and_runs_are_those_of_one_process" in names, output
    assert "test_a_restored_run_continues_to_the_bit" in names, output
    assert any("fraction" in test for test in found["PASSED"]), output
