"""A new optimizer is one file: dropped into a copy of the rooms, it runs through all contract tests as they stand.

One example is element-wise (Adagrad), the other needs full matrices and has the fallback AdamW.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from drop_in import copy_rooms, run_contracts

ROOMS = ("optim", "settings", "model", "parallel")
TESTS = ("tests/optim", "tests/parallel")

ADAGRAD = '''
"""Adagrad (Duchi, Hazan, Singer 2011): v <- v + g^2;  w <- w (1 - lr wd) - lr g / (sqrt(v) + eps)."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch

from optim.adamw import gradients
from optim.groups import ParamRule, rule_of
from optim.optimizer import OPTIMIZERS, Optimizer, OptimizerConfig
from optim.parameters import Param, StateTensor, TensorRanks


@OPTIMIZERS.register
class AdagradConfig(OptimizerConfig):
    elementwise: ClassVar[bool] = True

    name: Literal["adagrad"] = "adagrad"
    eps: float = 1e-6

    def build(self, params: Sequence[Param], ranks: TensorRanks) -> "Adagrad":
        return self.build_elementwise(params, [rule_of(self.table, param.name) for param in params])

    def build_elementwise(self, params: Sequence[Param], rules: Sequence[ParamRule]) -> "Adagrad":
        return Adagrad(self, params, rules)


class Adagrad(Optimizer):
    def __init__(self, config: AdagradConfig, params: Sequence[Param], rules: Sequence[ParamRule]) -> None:
        self._config, self._params, self._rules = config, params, rules
        self._squares = [torch.zeros_like(param.weight.detach()) for param in params]

    @torch.no_grad()
    def step_in_buckets(self, *, lr: float) -> Iterator[Sequence[Param]]:
        self.step_count += 1
        for param, rule, squares in zip(self._params, self._rules, self._squares, strict=True):
            (grad,) = gradients([param])
            squares.addcmul_(grad, grad)
            step = lr * rule.lr_multiplier
            param.weight.mul_(1 - step * rule.decay(self._config.weight_decay))
            param.weight.addcdiv_(grad, squares.sqrt().add_(self._config.eps), value=-step)
            yield [param]

    def state(self) -> dict[str, StateTensor]:
        pairs = zip(self._params, self._squares, strict=True)
        return {f"{param.name}.square_sum": StateTensor(squares, param.dim) for param, squares in pairs}
'''

NORMALISED = '''
"""Normalised momentum: M <- mu M + G;  W <- W (1 - lr wd) - lr sqrt(m n) M / |M| for a matrix W [m, n]."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from optim.adamw import gradients
from optim.groups import ADAMW_FOR_NON_MATRICES, ParamRule, rule_of
from optim.mixed import MatrixOptimizerConfig
from optim.optimizer import OPTIMIZERS, Optimizer
from optim.parameters import Param, StateTensor, TensorRanks


@OPTIMIZERS.register
class NormalisedConfig(MatrixOptimizerConfig):
    name: Literal["normalised"] = "normalised"
    table: tuple[ParamRule, ...] = ADAMW_FOR_NON_MATRICES
    momentum: float = 0.9

    def build_primary(self, params: Sequence[Param], ranks: TensorRanks) -> "Normalised":
        return Normalised(self, params, ranks)

    def matrix_cost(self, shape: Sequence[int]) -> float:
        return 2.0 * math.prod(shape)


class Normalised(Optimizer):
    def __init__(self, config: NormalisedConfig, params: Sequence[Param], ranks: TensorRanks) -> None:
        self._config, self._params, self._ranks = config, params, ranks
        self._momenta = [torch.zeros_like(param.weight.detach()) for param in params]

    @torch.no_grad()
    def step_in_buckets(self, *, lr: float) -> Iterator[Sequence[Param]]:
        self.step_count += 1
        for param, momentum in zip(self._params, self._momenta, strict=True):
            (grad,) = gradients([param])
            momentum.mul_(self._config.momentum).add_(grad)
            square = momentum.square().sum()
            if param.dim is not None:
                square = self._ranks.sum(square)
            rule = rule_of(self._config.table, param.name)
            step = lr * rule.lr_multiplier
            param.weight.mul_(1 - step * rule.decay(self._config.weight_decay))
            param.weight.addcdiv_(momentum, square.sqrt().add_(1e-12), value=-step * math.sqrt(math.prod(param.shape)))
            yield [param]

    def state(self) -> dict[str, StateTensor]:
        pairs = zip(self._params, self._momenta, strict=True)
        return {f"{param.name}.momentum": StateTensor(momentum, param.dim) for param, momentum in pairs}
'''
NEW = {"adagrad": ADAGRAD, "normalised": NORMALISED}


@pytest.mark.slow
def test_a_file_in_optim_is_all_that_a_new_optimizer_takes(tmp_path: Path) -> None:
    files = {f"optim/{name}.py": code for name, code in NEW.items()}
    folder = copy_rooms(tmp_path, *ROOMS, *TESTS, files=files)
    tests = ["tests/optim/test_optimizer_contracts.py", "tests/parallel/engines", "tests/parallel/test_layout.py"]
    code, found, output = run_contracts(folder, tests, keyword=" or ".join(NEW))
    assert code == 0, output
    passed = [test.partition("[")[::2] for test in found["PASSED"]]
    for name in NEW:
        contracts = {test for test, ids in passed if name in ids}
        assert "test_the_same_run_in_any_layout" in contracts, output
        assert "test_tensor_ranks_do_what_one_process_does" in contracts, output
        assert len(contracts) >= 15, contracts
    assert any(test.startswith("test_an_elementwise_optimizer") for test, _ in passed), output
