"""Pruning: exact sparsity, dead weights that stay dead, groups, and mistakes that are refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import optim_cases as cases
import pytest
import torch
from optim_cases import MODEL
from test_transform_contracts import LR, PLAN, STEPS, built, trained

from optim.optimizer import OPTIMIZERS
from optim.pruning.criteria.base import CRITERIA
from optim.transforms.base import RunPlan
from optim.transforms.sparsity import SparsityConfig
from settings import UserError, parse

LINEAR_MAPS = {name: case for name, case in MODEL.items() if ".weight" in name and name.count(".") == 4}
COUNT = sum(torch.Size(case.shape).numel() for case in LINEAR_MAPS.values())
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.names())


def config_of(**values: Any) -> SparsityConfig:
    return SparsityConfig.model_validate({"target": 0.6, "start": 0.2, "end": 0.8, "interval_steps": 2, **values})


@every_optimizer
@pytest.mark.parametrize("scope", ["global", "matrix"])
def test_sparsity_follows_the_ramp_exactly_and_dead_weights_stay_dead(optimizer: str, scope: str) -> None:
    config = config_of(scope=scope, unit="steps", shape="linear")
    params = cases.params_of(MODEL, cases.weights(MODEL))
    stepped, chain = built(optimizer, config, params)
    dead: dict[str, torch.Tensor] = {}
    expected = 0
    for step in range(1, STEPS + 1):
        cases.take_steps(stepped, params, MODEL, [step], lr=LR)
        if step in (4, 6, 8):  # every other step of the rise from 2 to 8
            expected = round(COUNT * 0.6 * (step - 2) / 6)
        zeros = {param.name: param.weight == 0 for param in params if param.name in LINEAR_MAPS}
        assert sum(int(mask.sum()) for mask in zeros.values()) == chain.zeroed_weights
        if scope == "global":
            assert chain.zeroed_weights == expected
        else:
            for name, mask in zeros.items():
                assert int(mask.sum()) == round(mask.numel() * 0.6 * max(min(step // 2 * 2, 8) - 2, 0) / 6), name
        assert all(bool((zeros[name] >= mask).all()) for name, mask in dead.items())
        dead = zeros
    for param in params:
        if param.name not in LINEAR_MAPS:
            assert bool((param.weight != 0).all()), param.name
    assert chain.metrics()["sparsity"] == chain.zeroed_weights / COUNT


def test_the_smallest_of_all_weights_are_pruned_first() -> None:
    config = config_of(unit="steps", interval_steps=1, target=0.5, start=0.0, end=0.1)  # all in the first step
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer, _ = built("adamw", config, params)
    before = torch.cat([cases.weights(MODEL)[name].flatten() for name in LINEAR_MAPS])
    cases.take_steps(optimizer, params, MODEL, [0], lr=1e-30)
    after = torch.cat([param.weight.flatten() for param in params if param.name in LINEAR_MAPS])
    expected = torch.ones(COUNT, dtype=torch.bool)
    expected[before.abs().sort(stable=True).indices[: round(COUNT / 2)]] = False
    assert torch.equal(after != 0, expected)
    assert torch.equal(after[expected], before[expected])


def test_the_gradient_weighted_criterion_prunes_what_changes_the_loss_least() -> None:
    config = config_of(unit="steps", target=0.5, start=0.0, end=0.1, criterion="gradient_weighted")
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer, _ = built("adamw", config, params)
    weights, grads = cases.weights(MODEL), cases.gradients(MODEL, 0)
    products = torch.cat([(weights[name] * grads[name]).abs().flatten() for name in LINEAR_MAPS])
    cases.take_steps(optimizer, params, MODEL, [0], lr=1e-30)
    after = torch.cat([param.weight.flatten() for param in params if param.name in LINEAR_MAPS])
    expected = torch.ones(COUNT, dtype=torch.bool)
    expected[products.sort(stable=True).indices[: round(COUNT / 2)]] = False
    assert torch.equal(after != 0, expected)


@pytest.mark.parametrize("criterion", CRITERIA.names())
def test_every_criterion_prunes_its_lowest_scores(criterion: str) -> None:
    config = config_of(unit="steps", target=0.5, start=0.0, end=0.1, criterion=criterion)
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer, _ = built("adamw", config, params)
    weights, grads = cases.weights(MODEL), cases.gradients(MODEL, 0)
    scores = torch.cat([config.criterion.scores(weights[name], grads[name]).flatten() for name in LINEAR_MAPS])
    assert bool((scores >= 0).all())
    cases.take_steps(optimizer, params, MODEL, [0], lr=1e-30)
    after = torch.cat([param.weight.flatten() for param in params if param.name in LINEAR_MAPS])
    expected = torch.ones(COUNT, dtype=torch.bool)
    expected[scores.sort(stable=True).indices[: round(COUNT / 2)]] = False
    assert torch.equal(after != 0, expected)


@every_optimizer
def test_two_of_four_keeps_the_two_largest_of_each_group(optimizer: str) -> None:
    config = config_of(structure="2-of-4", target=0.5)
    params = cases.params_of(MODEL, cases.weights(MODEL))
    stepped, _ = built(optimizer, config, params)
    for step in range(STEPS):
        cases.take_steps(stepped, params, MODEL, [step], lr=LR)
        for param in params:
            if param.name in LINEAR_MAPS:
                zeros = (param.weight == 0).view(-1, 4).sum(1)
                assert set(zeros.tolist()) <= {0, 2}, param.name
    for param in params:
        if param.name in LINEAR_MAPS:
            assert bool(((param.weight == 0).view(-1, 4).sum(1) == 2).all()), param.name
    at_once = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer_at_once, _ = built(optimizer, config_of(structure="2-of-4", target=0.5, start=0.0, end=0.1), at_once)
    cases.take_steps(optimizer_at_once, at_once, MODEL, [0], lr=1e-30)
    for param in at_once:
        if param.name in LINEAR_MAPS:
            groups = cases.weights(MODEL)[param.name].abs().view(-1, 4)
            kept = groups.sort(stable=True, dim=1).indices[:, 2:]
            assert torch.equal(param.weight.view(-1, 4) != 0, torch.zeros_like(groups).scatter(1, kept, 1.0).bool())


@every_optimizer
def test_a_target_of_zero_is_the_dense_run_to_the_bit(optimizer: str) -> None:
    sparse, _, _ = trained(optimizer, config_of(target=0.0), STEPS)
    dense, _ = cases.trained(OPTIMIZERS[optimizer].examples()[0], MODEL, STEPS, lr=LR)
    for one, other in zip(sparse, dense, strict=True):
        assert torch.equal(one.weight, other.weight), one.name


def test_ranks_send_nothing_in_steps_without_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(unit="steps")  # prunes in steps 4, 6 and 8
    params = cases.params_of(MODEL, cases.weights(MODEL))
    optimizer, chain = built("adamw", config, params)
    sums = 0

    def total(x: torch.Tensor) -> torch.Tensor:
        nonlocal sums
        sums += 1
        return x

    (sparsity,) = chain._transforms
    monkeypatch.setattr(sparsity, "_inputs", replace(sparsity._inputs, sum_over_ranks=total))  # type: ignore[attr-defined]
    sent = []
    for step in range(STEPS):
        before = sums
        cases.take_steps(optimizer, params, MODEL, [step], lr=LR)
        sent.append(sums > before)
    assert [step for step, any_sent in enumerate(sent, start=1) if any_sent] == [4, 6, 8]


def test_moments_of_dead_weights_are_zero() -> None:
    _, optimizer, _ = trained("adamw", config_of(), STEPS)
    state = optimizer.state()
    for name in LINEAR_MAPS:
        dead = state[f"{name}.pruned"].tensor
        assert dead.any()
        for moment in ("exp_avg", "exp_avg_sq"):
            assert not state[f"{name}.{moment}"].tensor[dead].any()
            assert bool((state[f"{name}.{moment}"].tensor[~dead] != 0).all())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target": 1}, "target = 1"),
        ({"target": -0.1}, "target = -0.1"),
        ({"start": 0.8, "end": 0.5}, "start = 0.8 must be less than end = 0.5"),
        ({"structure": "4-of-2"}, "must keep fewer weights than a group has"),
        ({"structure": "2-of-4", "target": 0.6}, "prunes 0.5 of the weights, not 0.6"),
        ({"parameters": "("}, "is no regular expression"),
        ({"criterion": "magnitud"}, 'did you mean "magnitude"'),
        ({"interval_steps": 0}, "interval_steps = 0"),
    ],
)
def test_a_mistake_is_one_message(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse(SparsityConfig, {"target": 0.5, **values}, source="optim.transforms.0")


@pytest.mark.parametrize(
    ("values", "plan", "tensor", "message"),
    [
        ({"parameters": "nothing"}, PLAN, 1, 'parameters = "nothing" matches no parameter of the model'),
        ({"interval_steps": 9, "unit": "steps"}, PLAN, 1, "takes 6 steps (from step 2 to 8)"),
        ({"end": 0.3}, RunPlan(1, 1e6, cases.shapes()), 1, "in a run of 1 steps"),
        ({"structure": "4-of-8", "target": 0.5}, PLAN, 1, "layers.0.mlp.down.weight is [8, 20]"),
        ({"structure": "2-of-4", "target": 0.5}, PLAN, 4, "a multiple of 16"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(values: dict[str, Any], plan: RunPlan, tensor: int, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        config_of(**values).check(plan, tensor=tensor)
