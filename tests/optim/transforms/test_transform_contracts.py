"""Contracts of every registered transform, around every optimizer: a new file in `optim/transforms` is tested here."""

from __future__ import annotations

import copy
import re
from typing import Any

import optim_cases as cases
import pytest
import torch
from optim_cases import MODEL

from optim.optimizer import OPTIMIZERS, Optimizer
from optim.parameters import OneRank, Param
from optim.transformed import TransformedOptimizer
from optim.transforms.base import TRANSFORMS, RunPlan, TransformConfig, TransformInputs
from optim.transforms.chain import TransformChain, moments_by_parameter
from settings import UserError, parse

STEPS, LR = 10, 0.01
PLAN = RunPlan(STEPS, 6.0 * 4000, cases.shapes())
EXAMPLES = {
    f"{name}-{number}" if number else name: config
    for name in TRANSFORMS.names()
    for number, config in enumerate(TRANSFORMS[name].examples())
}
every_example = pytest.mark.parametrize("config", EXAMPLES.values(), ids=EXAMPLES)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.names())


def built(name: str, config: TransformConfig, params: list[Param]) -> tuple[Optimizer, TransformChain]:
    optimizer = OPTIMIZERS[name].examples()[0].build(params, OneRank())
    inputs = TransformInputs(
        params=params,
        moments=moments_by_parameter(optimizer.state()),
        tensor_ranks=OneRank(),
        sum_over_ranks=lambda x: x,
        plan=PLAN,
    )
    chain = TransformChain.build([config], inputs)
    return TransformedOptimizer(optimizer, chain, params), chain


def trained(name: str, config: TransformConfig, steps: int) -> tuple[list[Param], Optimizer, TransformChain]:
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer, chain = built(name, config, params)
    cases.take_steps(optimizer, params, MODEL, range(steps), lr=LR)
    return params, optimizer, chain


@every_example
def test_a_config_survives_a_round_trip_and_fits_the_model(config: TransformConfig) -> None:
    assert TRANSFORMS.parse(copy.deepcopy(config.to_plain())) == config
    config.check(PLAN, tensor=1)


@every_example
@every_optimizer
def test_a_restored_run_continues_to_the_bit(optimizer: str, config: TransformConfig) -> None:
    unbroken, _, chain = trained(optimizer, config, STEPS)
    for stop in (1, STEPS // 2, STEPS - 1):
        params, stopped, _ = trained(optimizer, config, stop)
        saved = {key: value.tensor.clone() for key, value in stopped.state().items()}
        resumed = cases.params_of(MODEL, {param.name: param.weight for param in params})
        again, chain_again = built(optimizer, config, resumed)
        assert again.state().keys() == saved.keys()
        for key, value in again.state().items():
            assert (value.tensor.shape, value.tensor.dtype) == (saved[key].shape, saved[key].dtype)
            value.tensor.copy_(saved[key])
        again.step_count = stop
        cases.take_steps(again, resumed, MODEL, range(stop, STEPS), lr=LR)
        for one, other in zip(unbroken, resumed, strict=True):
            assert torch.equal(one.weight, other.weight), one.name
        assert chain.metrics() == chain_again.metrics()


@every_example
def test_a_state_of_zeros_is_a_fresh_start_and_keys_stay(config: TransformConfig) -> None:
    params, optimizer, _ = trained("adamw", config, STEPS)
    fresh = {param.name: param.weight.clone() for param in params}
    keys = list(optimizer.state())
    for param in params:
        param.weight.copy_(cases.weights(MODEL)[param.name])
    for value in optimizer.state().values():
        value.tensor.zero_()
    optimizer.step_count = 0
    cases.take_steps(optimizer, params, MODEL, range(STEPS), lr=LR)
    assert list(optimizer.state()) == keys
    assert all(torch.equal(param.weight, fresh[param.name]) for param in params)


@every_example
def test_a_bucket_is_handed_on_with_its_final_weights(config: TransformConfig) -> None:
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer, _ = built("adamw", config, params)
    for step in range(STEPS):
        grads = cases.gradients(MODEL, step)
        for param in params:
            param.grad = grads[param.name]
        yielded = {p.name: p.weight.clone() for bucket in optimizer.step_in_buckets(lr=LR) for p in bucket}
        assert yielded.keys() == MODEL.keys()
        assert all(torch.equal(yielded[param.name], param.weight) for param in params)


@every_example
def test_a_rank_may_own_nothing(config: TransformConfig) -> None:
    optimizer, _ = built("adamw", config, [])
    for _ in range(STEPS):
        optimizer.step(lr=LR)
    assert optimizer.step_count == STEPS


def test_a_transform_stands_once_in_the_list() -> None:
    twice: dict[str, Any] = {"lr": 1e-3, "transforms": [{"name": "sparsity", "target": 0.5}] * 2}
    with pytest.raises(UserError, match=re.escape("has a transform twice: sparsity, sparsity")):
        parse(OPTIMIZERS["adamw"], twice, source="optim")
