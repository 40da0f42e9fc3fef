"""AdamW against torch.optim.AdamW and against the plain rule."""

from __future__ import annotations

import optim_cases as cases
import optim_oracles as oracles
import pytest
import torch
from optim_cases import MODEL

from optim.groups import ParamRule
from optim.optimizer import OPTIMIZERS
from optim.parameters import Param, flat_view, runs_in_memory

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


def test_weights_of_one_flat_buffer_get_the_bits_of_weights_apart() -> None:
    """The engines' flat buffers: what follows in memory without a gap is one tensor to the kernel."""
    sizes = (16, 48, 32, 64, 33)  # the CPU kernel rounds what is left over of 16 elements in another way
    start = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(0))
    grads = torch.randn(3, sum(sizes), generator=torch.Generator().manual_seed(1))
    flat, flat_grad = start.clone(), grads[0].clone()
    places = zip(sizes, flat.split(sizes), flat_grad.split(sizes), start.split(sizes), strict=True)
    together, apart = [], []
    for number, (size, weight, grad, own) in enumerate(places):
        name = f"layers.{number}.{'norm' if number == 2 else 'mlp'}.weight"  # one without decay breaks the run
        together.append(Param(name, weight, (size,), grad=grad))
        apart.append(Param(name, own.clone(), (size,)))
    rules = [ParamRule(pattern=".*", weight_decay=0.0 if number == 2 else None) for number in range(len(sizes))]
    optimizers = [CONFIG.build_elementwise(params, rules) for params in (together, apart)]
    for grad in grads:
        flat_grad.copy_(grad)
        for param, part in zip(apart, grad.split(sizes), strict=True):
            param.grad = part
        for optimizer in optimizers:
            optimizer.step(lr=1e-2)
    assert torch.equal(flat, torch.cat([param.weight for param in apart]))
    states = [optimizer.state() for optimizer in optimizers]
    assert all(torch.equal(states[0][key].tensor, states[1][key].tensor) for key in states[1])
    together[1].grad = flat_grad[16:64].clone()
    with pytest.raises(AssertionError, match="has moved out of the flat buffer"):
        optimizers[0].step(lr=1e-2)


def test_runs_end_at_gaps_other_buffers_and_missing_gradients() -> None:
    buffer, other = torch.zeros(20), torch.zeros(20)
    weights = [buffer[:4], buffer[4:10], buffer[12:14], buffer[14:16], other[16:20], buffer[16:18], buffer[18:20]]
    assert runs_in_memory(weights) == [slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 7)]
    assert runs_in_memory(weights[:2], [other[:4], None]) == [slice(0, 1), slice(1, 2)]
    assert runs_in_memory(weights[:2], [other[:4], other[6:12]]) == [slice(0, 1), slice(1, 2)]
    assert runs_in_memory([]) == []
    assert flat_view(weights[2:4]).data_ptr() == weights[2].data_ptr()
