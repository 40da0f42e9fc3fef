"""Conda against the plain rule, and its invariants."""

from __future__ import annotations

import math
from typing import Any

import optim_cases as cases
import optim_oracles as oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_cases import Case
from torch import Tensor

from optim.conda import CondaConfig
from optim.parameters import OneRank, Param

NAME = "layers.0.mlp.up.weight"
FORMS = {"tall": (20, 8), "wide": (8, 20), "square": (8, 8), "row": (1, 5), "column": (5, 1)}
form = pytest.mark.parametrize("shape", FORMS.values(), ids=FORMS.keys())
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
property_test = settings(deadline=None, max_examples=40, database=None)


def config_of(**values: Any) -> CondaConfig:
    return CondaConfig.model_validate({"lr": 0.01, **values})


def run(config: CondaConfig, weight: Tensor, grads: list[Tensor], lr: float = 0.01) -> Tensor:
    """Returns the weight after steps on these gradients."""
    param = Param(NAME, weight.clone(), tuple(weight.shape))
    optimizer = config.build([param], OneRank())
    for grad in grads:
        param.grad = grad
        optimizer.step(lr=lr)
    return param.weight


def draw(shape: tuple[int, ...], count: int, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for _ in range(count)]


def orthogonal(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(draw((size, size), 1, seed)[0]).Q


@form
@pytest.mark.parametrize("interval", [1, 3, 7, 1000])
def test_the_rule_in_float64(shape: tuple[int, int], interval: int) -> None:
    weight, *grads = draw(shape, 31, seed=interval)
    rule = oracles.conda(b1=0.9, b2=0.99, eps=1e-8, scale=0.25, interval=interval, weight_decay=0.1)
    result = run(config_of(refresh_interval=interval, weight_decay=0.1), weight, grads)
    assert cases.relative(result, rule(weight, grads, 0.01)) < 1e-9


@form
def test_the_rule_in_float32_within_the_bound_of_parity(shape: tuple[int, int]) -> None:
    weight, *grads = draw(shape, 31, seed=3, dtype=torch.float32)
    rule = oracles.conda(b1=0.9, b2=0.99, eps=1e-8, scale=0.25, interval=7, weight_decay=0.1)
    result = run(config_of(refresh_interval=7, weight_decay=0.1), weight, grads)
    assert cases.relative(result, rule(weight, grads, 0.01)) < 1e-4


@given(shape=sizes, seed=st.integers(0, 10**6), steps=st.integers(1, 8))
@property_test
def test_with_the_identity_as_basis_it_is_adam_with_lr_times_scale(
    shape: tuple[int, int], seed: int, steps: int
) -> None:
    weight, *grads = draw(shape, steps + 1, seed)
    param = Param(NAME, weight.clone(), shape)
    optimizer = config_of(refresh_interval=10**6, eps=1e-30).build([param], OneRank())
    optimizer.state()[f"{NAME}.basis"].tensor.copy_(torch.eye(min(shape)))
    optimizer.step_count = 1  # past the first step, which would take a basis
    m, v, expected = torch.zeros_like(weight), torch.zeros_like(weight), weight.clone()
    for t, grad in enumerate(grads, start=2):
        param.grad = grad
        optimizer.step(lr=0.01)
        m = 0.9 * m + 0.1 * grad
        v = 0.99 * v + 0.01 * grad**2
        expected -= 0.01 * 0.25 * (m / (1 - 0.9**t)) / (v / (1 - 0.99**t)).sqrt()
    torch.testing.assert_close(param.weight, expected, rtol=1e-12, atol=1e-14)


@given(shape=sizes, seed=st.integers(0, 10**6))
@property_test
def test_the_first_update_has_norm_lr_scale_sqrt_mn(shape: tuple[int, int], seed: int) -> None:
    weight, grad = draw(shape, 2, seed)
    moved = run(config_of(eps=1e-30), weight, [grad]) - weight
    assert float(moved.norm()) == pytest.approx(0.01 * 0.25 * math.sqrt(math.prod(shape)), rel=1e-9)


@given(shape=sizes, seed=st.integers(0, 10**6), interval=st.integers(1, 5))
@property_test
def test_rotating_the_shorter_side_of_all_gradients_rotates_the_update(
    shape: tuple[int, int], seed: int, interval: int
) -> None:
    _, *grads = draw(shape, 7, seed)
    rotation = orthogonal(min(shape), seed)
    config, zero = config_of(refresh_interval=interval), torch.zeros(shape, dtype=torch.float64)
    if shape[0] >= shape[1]:
        turned = run(config, zero, [grad @ rotation for grad in grads])
        expected = run(config, zero, grads) @ rotation
    else:
        turned = run(config, zero, [rotation @ grad for grad in grads])
        expected = rotation @ run(config, zero, grads)
    torch.testing.assert_close(turned, expected, rtol=1e-6, atol=1e-9)


@form
@pytest.mark.parametrize(("interval", "stagger"), [(4, False), (4, True), (10**9, False), (10**9, True)])
def test_stop_and_resume_is_bitwise_between_refreshes_and_without_them(
    shape: tuple[int, int], interval: int, stagger: bool
) -> None:
    names = {f"layers.{layer}.mlp.up.weight": Case(shape, 0) for layer in range(3)}
    config = config_of(refresh_interval=interval, stagger=stagger)
    unbroken, _ = cases.trained(config, names, 11, lr=0.01)
    params, stopped = cases.trained(config, names, 6, lr=0.01)
    optimizer = config.build(params, OneRank())
    for key, value in optimizer.state().items():
        value.tensor.copy_(stopped.state()[key].tensor)
    optimizer.step_count = 6
    cases.take_steps(optimizer, params, names, range(6, 11), lr=0.01)
    for one, other in zip(unbroken, params, strict=True):
        assert torch.equal(one.weight, other.weight)


@given(shape=sizes, seed=st.integers(0, 10**6))
@property_test
def test_with_an_endless_interval_the_first_basis_is_kept(shape: tuple[int, int], seed: int) -> None:
    weight, *grads = draw(shape, 9, seed)
    rule = oracles.conda(b1=0.9, b2=0.99, eps=1e-8, scale=0.25, interval=10**9, weight_decay=0.0)
    result = run(config_of(refresh_interval=10**9), weight, grads)
    assert cases.relative(result, rule(weight, grads, 0.01)) < 1e-9


@given(shape=sizes, seed=st.integers(0, 10**6), interval=st.integers(1, 4), size=st.floats(1e-6, 1e6))
@property_test
def test_the_basis_is_orthogonal_in_float32(shape: tuple[int, int], seed: int, interval: int, size: float) -> None:
    weight, *grads = draw(shape, 6, seed, dtype=torch.float32)
    param = Param(NAME, weight, shape)
    optimizer = config_of(refresh_interval=interval).build([param], OneRank())
    for grad in grads:
        param.grad = grad * size
        optimizer.step(lr=0.01)
    basis = optimizer.state()[f"{NAME}.basis"].tensor
    assert basis.dtype == torch.float32
    torch.testing.assert_close(basis.T @ basis, torch.eye(min(shape)), rtol=0, atol=2e-6)


def test_gradients_of_low_rank_or_zero_give_finite_weights_and_an_orthogonal_basis() -> None:
    weight = torch.randn(12, 8)
    low = torch.outer(torch.randn(12), torch.randn(8))
    for grads in ([low] * 6, [torch.zeros(12, 8)] * 3 + [low] * 3):
        param = Param(NAME, weight.clone(), (12, 8))
        optimizer = config_of(refresh_interval=2).build([param], OneRank())
        for grad in grads:
            param.grad = grad
            optimizer.step(lr=0.01)
        assert param.weight.isfinite().all()
        basis = optimizer.state()[f"{NAME}.basis"].tensor
        torch.testing.assert_close(basis.T @ basis, torch.eye(8), rtol=0, atol=2e-6)


def test_memory_is_two_moments_and_the_small_square() -> None:
    _, optimizer = cases.trained(config_of(), {NAME: Case((20, 8), 0)}, 1, lr=0.01)
    assert sum(value.tensor.numel() for value in optimizer.state().values()) == 2 * 20 * 8 + 8 * 8


def test_staggered_matrices_refresh_at_their_own_steps_whichever_rank_owns_them() -> None:
    names = {f"layers.{layer}.mlp.up.weight": Case((6, 4), 0) for layer in range(12)}
    config = config_of(refresh_interval=5, stagger=True)

    def refreshed(own: dict[str, Case]) -> dict[str, list[int]]:
        params = cases.params_of(own, cases.weights(names))
        optimizer = config.build(params, OneRank())
        when: dict[str, list[int]] = {name: [] for name in own}
        for step in range(11):
            before = {name: optimizer.state()[f"{name}.basis"].tensor.clone() for name in own}
            cases.take_steps(optimizer, params, own, [step], lr=0.01)
            for name in own:
                if not torch.equal(before[name], optimizer.state()[f"{name}.basis"].tensor):
                    when[name].append(step)
        return when

    together = refreshed(names)
    assert all(steps[0] == 0 for steps in together.values())
    assert all(later - earlier == 5 for steps in together.values() for earlier, later in [steps[-2:]])
    assert len({steps[-1] % 5 for steps in together.values()}) > 2
    few = dict(list(names.items())[3:7])
    assert refreshed(few) == {name: together[name] for name in few}


def test_decay_order() -> None:
    weight, grad = draw((6, 4), 2, 0)
    update = run(config_of(), weight, [grad]) - weight
    after = run(config_of(weight_decay=0.5), weight, [grad])
    before = run(config_of(weight_decay=0.5, decay_order="before"), weight, [grad])
    torch.testing.assert_close(after, (weight + update) * (1 - 0.005))
    torch.testing.assert_close(before, weight * (1 - 0.005) + update)


@pytest.mark.parametrize("choice", ["keep", "rotate"])
@pytest.mark.parametrize("shape", [(9, 5), (5, 9)])
def test_the_second_moment_is_kept_or_rotated_with_the_basis(shape: tuple[int, int], choice: str) -> None:
    """`rotate` turns v into the second moment of independent gradients of second moment v in the new basis."""
    config = config_of(refresh_interval=2, second_moment=choice, beta2=0.9)
    params, optimizer = cases.trained(config, {NAME: Case(shape, 0)}, 2, lr=0.01, dtype=torch.float64)
    old = {key: value.tensor.clone() for key, value in optimizer.state().items()}
    params[0].grad = grad = draw(shape, 1, 5)[0]
    optimizer.step(lr=0.01)
    basis, v = optimizer.state()[f"{NAME}.basis"].tensor, old[f"{NAME}.rotated_exp_avg_sq"]
    if choice == "rotate":
        rotation = (old[f"{NAME}.basis"].T @ basis) ** 2
        v = v @ rotation if shape[0] > shape[1] else rotation.T @ v
    rotated = grad @ basis if shape[0] > shape[1] else basis.T @ grad
    torch.testing.assert_close(optimizer.state()[f"{NAME}.rotated_exp_avg_sq"].tensor, 0.9 * v + 0.1 * rotated**2)


def test_cost_is_that_of_the_matmuls_and_embeddings_are_cheap() -> None:
    config = config_of()
    assert config.cost((1024, 512), NAME) > 4 * 1024 * 512 * 512
    assert config.cost((32000, 512), "embedding.weight") < config.cost((512, 512), NAME) * 10
