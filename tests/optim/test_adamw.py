"""AdamW against torch.optim.AdamW and against the plain rule."""

from __future__ import annotations

import optim_cases as cases
import optim_oracles as oracles
import pytest
import torch
from optim_cases import MODEL

from optim.optimizer import OPTIMIZERS

CONFIG = OPTIMIZERS["adamw"].model_validate({"lr": 1e-2, "weight_decay": 0.1})
MATRICES = {name: case for name, case in MODEL.items() if len(case.shape) == 2}


def test_the_bits_of_torch_s_fused_class() -> None:
    params, _ = cases.trained(CONFIG, MATRICES, 20, lr=1e-2)
    twins = {name: torch.nn.Parameter(weight) for name, weight in cases.weights(MATRICES).items()}
    reference = torch.optim.AdamW(twins.values(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for step in range(20):
        for name, grad in cases.gradients(MATRICES, step).items():
            twins[name].grad = grad
        reference.step()
    for param in params:
        assert torch.equal(param.weight, twins[param.name]), param.name


def test_the_rule_in_float64_with_no_decay_on_vectors() -> None:
    params, _ = cases.trained(CONFIG, MODEL, 20, lr=1e-2, dtype=torch.float64)
    for param in params:
        rule = oracles.adam(b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1 if len(param.shape) == 2 else 0.0)
        grads = [cases.gradients(MODEL, step, torch.float64)[param.name] for step in range(20)]
        expected = rule(cases.weights(MODEL, dtype=torch.float64)[param.name], grads, 1e-2)
        torch.testing.assert_close(param.weight, expected, rtol=1e-12, atol=1e-14)


def test_bias_correction_follows_step_count() -> None:
    """At step_count = 100 a first gradient moves a weight by the corrected ratio, not by the whole lr."""
    params = cases.params_of(MATRICES, cases.weights(MATRICES))
    optimizer = CONFIG.build(params, cases.OneRank())
    optimizer.step_count = 99
    cases.take_steps(optimizer, params, MATRICES, [0], lr=1e-2)
    ratio = 0.1 / (1 - 0.9**100) / (0.05 / (1 - 0.95**100)) ** 0.5
    start = cases.weights(MATRICES)
    for param in params:
        moved = (start[param.name] * (1 - 1e-3) - param.weight).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, 1e-2 * ratio), rtol=1e-3, atol=0)


def test_a_missing_gradient_is_named() -> None:
    params = cases.params_of(MATRICES, cases.weights(MATRICES))
    optimizer = CONFIG.build(params, cases.OneRank())
    with pytest.raises(AssertionError, match=r"embedding.weight has no gradient"):
        optimizer.step(lr=1e-2)
