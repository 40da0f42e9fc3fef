"""AdamP and SGDP against the authors' package and the plain rule, and the properties of projection."""

from __future__ import annotations

import math
from typing import Any

import adamp as published
import optim_cases as cases
import optim_oracles as oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_cases import Case
from processes import run_ranks
from torch import Tensor

from optim.chunks import ScratchBuffers
from optim.optimizer import OPTIMIZERS, OptimizerConfig
from optim.parameters import OneRank, Param
from optim.scale_invariance import row_dots
from settings import UserError

NAME = "layers.0.mlp.up.weight"
SHAPES = [(6, 4), (16, 8), (3, 3), (40,), (1, 7), (64, 64), (2, 2), (5, 3, 2), (130, 30)]
property_test = settings(deadline=None, max_examples=40, database=None)


def config_of(name: str, *, view: str = "auto", head_size: int | None = None, **values: Any) -> OptimizerConfig:
    table = [{"pattern": ".*", "scale_invariant": view, "head_size": head_size}]
    return OPTIMIZERS[name].model_validate({"lr": 1e-3, "table": table, **values})


def tangential(grad: Tensor, weight: Tensor, vectors: int) -> Tensor:
    """Returns the gradient without its component along the weight, which is seen as so many vectors."""
    g, w = grad.reshape(vectors, -1), weight.reshape(vectors, -1)
    return (g - w * (g * w).sum(1, keepdim=True) / (w * w).sum(1, keepdim=True)).reshape(grad.shape)


def against_the_package(
    name: str, reference_class: Any, steps: int, dtype: torch.dtype, **values: Any
) -> tuple[float, list[float]]:
    """Returns (largest difference of a weight, fire rates).

    A third of the gradients are tangential to the rows, a third to the layer, a third to nothing.
    """
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]
    params = [Param(f"p{i}", start.clone(), tuple(start.shape)) for i, start in enumerate(starts)]
    twins = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizer = config_of(name, weight_decay=0.1, **values).build(params, OneRank())
    if "beta1" in values:
        values["betas"] = (values.pop("beta1"), values.pop("beta2"))
    reference = reference_class(twins, lr=1e-3, weight_decay=0.1, **values)
    for step in range(steps):
        for param, twin in zip(params, twins, strict=True):
            grad = torch.randn(twin.shape, generator=generator, dtype=dtype)
            if grad.ndim > 1 and step % 3 < 2:
                grad = tangential(grad, twin.detach(), grad.shape[0] if step % 3 == 0 else 1)
            param.grad, twin.grad = grad, grad.clone()
        optimizer.step(lr=1e-3)
        reference.step()
    worst = max(float((p.weight - t.detach()).abs().max()) for p, t in zip(params, twins, strict=True))
    return worst, list(optimizer.diagnostics().values())


@pytest.mark.parametrize("values", [{}, {"nesterov": True}, {"beta1": 0.8, "beta2": 0.9}, {"delta": 0.5}])
def test_adamp_is_the_authors_package_over_100_steps(values: dict[str, Any]) -> None:
    worst, rates = against_the_package("adamp", published.AdamP, 100, torch.float32, **values)
    assert worst < 1e-6
    assert len(rates) == len(SHAPES) - 1
    assert all(0.6 < rate < 1.0 for rate in rates)  # the test finds tangential gradients, and rejects others


def test_sgdp_with_nesterov_is_the_authors_package() -> None:
    worst, rates = against_the_package(
        "sgdp", published.SGDP, 100, torch.float64, nesterov=True, momentum=0.9, dampening=0.1
    )
    assert worst < 1e-12
    assert min(rates) > 0.6


def test_sgdp_without_projection_is_the_authors_package() -> None:
    worst, rates = against_the_package("sgdp", published.SGDP, 100, torch.float64, momentum=0.9, delta=0.0)
    assert worst < 1e-12
    assert max(rates) == 0.0


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgdp_is_its_rule(nesterov: bool) -> None:
    """Without nesterov the package also projects its momentum, in place; the rule projects the update only."""
    generator = torch.Generator().manual_seed(1)
    for shape in SHAPES:
        start = torch.randn(shape, generator=generator, dtype=torch.float64)
        grads = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(12)]
        if len(shape) > 1:
            grads = [tangential(g, start, shape[0]) if i % 2 else g for i, g in enumerate(grads)]
        param = Param("p", start.clone(), shape)
        config = config_of("sgdp", weight_decay=0.1, nesterov=nesterov, dampening=0.2)
        optimizer = config.build([param], OneRank())
        for grad in grads:
            param.grad = grad
            optimizer.step(lr=1e-3)
        rule = oracles.sgdp(momentum=0.9, dampening=0.2, weight_decay=0.1, nesterov=nesterov)
        torch.testing.assert_close(param.weight, rule(start, grads, 1e-3), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("view", "head_size"), [("auto", None), ("row", None), ("head", 4), ("layer", None)])
def test_every_view_in_float64(view: str, head_size: int | None) -> None:
    start, *grads = (
        torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in range(9)
    )
    param = Param(NAME, start.clone(), (12, 5))
    optimizer = config_of("adamp", view=view, head_size=head_size, weight_decay=0.1).build([param], OneRank())
    for grad in grads:
        param.grad = grad
        optimizer.step(lr=1e-2)
    rule = oracles.adamp(b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.1, view=view, head_size=head_size or 1)
    torch.testing.assert_close(param.weight, rule(start, grads, 1e-2), rtol=1e-10, atol=1e-12)


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 9), columns=st.integers(2, 9), steps=st.integers(1, 6))
@property_test
def test_projected_steps_are_orthogonal_to_rows_and_norms_grow_by_pythagoras(
    seed: int, rows: int, columns: int, steps: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64) + 0.1
    for name in ("adamp", "sgdp"):
        param = Param(NAME, weight.clone(), (rows, columns))
        optimizer = config_of(name, view="row", weight_decay=0.0).build([param], OneRank())
        for _ in range(steps):
            before = param.weight.clone()
            param.grad = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
            optimizer.step(lr=0.01)
            moved = param.weight - before
            torch.testing.assert_close(
                (before * moved).sum(1), torch.zeros(rows, dtype=torch.float64), rtol=0, atol=1e-7
            )
            squares = before.square().sum(1) + moved.square().sum(1)
            torch.testing.assert_close(param.weight.square().sum(1), squares, rtol=1e-6, atol=1e-7)


def on_the_sphere(name: str, delta: float, seed: int) -> tuple[float, float, Tensor, Tensor]:
    """Takes 200 noisy steps on a loss of w/|w|; returns the growth of the norm, the last cosine, start, first step."""
    generator = torch.Generator().manual_seed(seed)
    start, target = (torch.randn(1, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    param = Param(NAME, start.clone(), (1, 16))
    optimizer = config_of(name, weight_decay=0.0, delta=delta).build([param], OneRank())
    first = torch.zeros(0)
    for step in range(200):
        leaf = param.weight.clone().requires_grad_()
        noise = torch.randn(1, 16, generator=generator, dtype=torch.float64)
        (param.grad,) = torch.autograd.grad(-(leaf / leaf.norm() * (target + 0.1 * noise)).sum(), leaf)
        optimizer.step(lr=0.02)
        first = param.weight - start if step == 0 else first
    weight = param.weight
    cosine = float((weight * target).sum() / weight.norm() / target.norm())
    return float(weight.norm() - start.norm()), cosine, start, first


@pytest.mark.parametrize("name", ["adamp", "sgdp"])
def test_on_a_scale_invariant_loss_the_tangent_step_is_the_same_and_the_norm_only_creeps(name: str) -> None:
    """With SGD the radial momentum always grows the norm. Adam's denominators can give it either sign, so for AdamP
    only the projected run is bounded: by Pythagoras its norm grows, but little."""
    for seed in range(10):
        grown, cosine, start, first = on_the_sphere(name, 0.1, seed)
        plain_grown, _, _, plain_first = on_the_sphere(name, 0.0, seed)
        unit = start / start.norm()
        torch.testing.assert_close(first, plain_first - unit * (unit * plain_first).sum(), rtol=1e-6, atol=1e-9)
        assert cosine > 0.95
        assert 0 < grown < 0.1 * float(start.norm())
        if name == "sgdp":
            assert plain_grown > 5 * grown


def test_with_delta_zero_it_is_adamw_to_the_bit() -> None:
    table = [{"pattern": ".*"}]
    plain = OPTIMIZERS["adamw"].model_validate({"lr": 1e-2, "beta2": 0.999, "table": table})
    expected, _ = cases.trained(plain, cases.MODEL, 10, lr=1e-2)
    params, optimizer = cases.trained(config_of("adamp", delta=0.0), cases.MODEL, 10, lr=1e-2)
    for one, other in zip(expected, params, strict=True):
        assert torch.equal(one.weight, other.weight), one.name
    assert set(optimizer.diagnostics().values()) == {0.0}


def test_fire_rates_count_all_steps_so_far_and_survive_a_restore() -> None:
    weight = torch.randn(4, 6)
    param = Param(NAME, weight, (4, 6))
    config = config_of("adamp")
    optimizer = config.build([param], OneRank())
    for step in range(4):
        grad = torch.randn(4, 6)
        param.grad = tangential(grad, param.weight, 4) if step < 3 else param.weight.clone()
        optimizer.step(lr=1e-3)
    assert optimizer.diagnostics() == {f"fire_rate/{NAME}": 0.75}
    again = config.build([param], OneRank())
    for key, value in again.state().items():
        value.tensor.copy_(optimizer.state()[key].tensor)
    again.step_count = 4
    assert again.diagnostics() == {f"fire_rate/{NAME}": 0.75}


def test_a_head_needs_a_size_that_divides_the_rows() -> None:
    for head_size in (None, 3):
        config = config_of("adamp", view="head", head_size=head_size)
        with pytest.raises(UserError, match=rf"needs a head_size that divides its rows, not {head_size}"):
            config.check({NAME: (8, 4)})
    config_of("adamp", view="head", head_size=4).check({NAME: (8, 4)})


THRESHOLDS = {
    f"layers.{layer}.{'below' if below else 'above'}_{view}_{dim}.weight": Case((6, 8), dim)
    for layer, dim in enumerate((0, 1, None))
    for below in (True, False)
    for view in ("row", "layer")
}


def _gradient_near_the_threshold(name: str, weight: Tensor, grad: Tensor) -> Tensor:
    """Returns a gradient whose |cos| with the rows or the layer is a thousandth below or above the threshold."""
    view, factor = ("row" if "_row_" in name else "layer"), (0.999 if "below" in name else 1.001)
    vectors = weight.shape[0] if view == "row" else 1
    w = weight.reshape(vectors, -1)
    tangent = tangential(grad, weight, vectors).reshape(w.shape)
    cosine = factor * 0.1 / math.sqrt(w.shape[1])
    along = cosine / math.sqrt(1 - cosine**2)
    tangent = tangent / tangent.norm(dim=1, keepdim=True)
    return (tangent + along * w / w.norm(dim=1, keepdim=True)).reshape(weight.shape)


def _near_the_threshold(name: str) -> dict[str, float]:
    ranks = cases.process_ranks() if torch.distributed.is_initialized() else OneRank()
    weights, grads = cases.weights(THRESHOLDS), cases.gradients(THRESHOLDS, 0)
    params = cases.params_of(THRESHOLDS, weights, ranks)
    optimizer = config_of(name).build(params, ranks)
    for param in params:
        grad = _gradient_near_the_threshold(param.name, weights[param.name], grads[param.name])
        param.grad = cases.shard_of(grad, THRESHOLDS[param.name].dim, ranks)
    optimizer.step(lr=1e-3)
    return optimizer.diagnostics()


@pytest.mark.parametrize("name", ["adamp", "sgdp"])
def test_tensor_ranks_decide_like_one_process_just_below_and_just_above_the_threshold(name: str) -> None:
    alone = _near_the_threshold(name)
    assert alone == {f"fire_rate/{key}": float("below" in key) for key in THRESHOLDS}
    assert run_ranks(2, _near_the_threshold, name) == [alone, alone]


VIEWS = {
    "layers.0.column.weight": Case((8, 6), 0),
    "layers.0.row.weight": Case((8, 6), 1),
    "layers.1.column.weight": Case((4, 2), 0),
    "layers.1.row.weight": Case((4, 2), 1),
}


def _views_on_ranks(view: str, nesterov: bool) -> dict[str, Tensor]:
    ranks = cases.process_ranks()
    config = config_of("adamp", view=view, head_size=2 if view == "head" else None, nesterov=nesterov)
    params, _ = cases.trained(config, VIEWS, 20, lr=1e-2, ranks=ranks)
    return {param.name: ranks.gather(param.weight, VIEWS[param.name].dim or 0) for param in params}


@pytest.mark.parametrize("view", ["auto", "row", "head", "layer"])
def test_two_tensor_ranks_equal_full_matrices_in_every_view(view: str) -> None:
    weights, other = run_ranks(2, _views_on_ranks, view, view == "row")
    rule = oracles.adamp(
        b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.1, view=view, head_size=2, nesterov=view == "row"
    )  # fmt: skip
    for name, start in cases.weights(VIEWS).items():
        grads = [cases.gradients(VIEWS, step)[name] for step in range(20)]
        assert cases.relative(weights[name], rule(start, grads, 1e-2)) < 1e-5, name
        assert torch.equal(weights[name], other[name])


def test_memory_is_adam_s_and_a_count() -> None:
    _, optimizer = cases.trained(config_of("adamp"), {NAME: Case((20, 8), 0)}, 1, lr=1e-3)
    assert sum(value.tensor.numel() for value in optimizer.state().values()) == 2 * 20 * 8 + 1


@pytest.mark.parametrize("shape", [(1, 4_000_000), (2, 2_000_000), (1000, 4000), (4, 5001)])
def test_dot_products_of_long_vectors_are_those_of_float64(shape: tuple[int, int]) -> None:
    """Checks the norms of a layer, of heads and of rows, from which the test's cosines and the projection are made."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(shape, generator=generator)
    update = 0.1 * w + torch.randn(shape, generator=generator)
    for a, b in ((w, w), (w, update), (update, update)):
        wanted = (a.double() * b.double()).sum(1)
        scale = a.double().norm(dim=1) * b.double().norm(dim=1)
        assert ((row_dots(a, b, ScratchBuffers()) - wanted).abs() < 1e-6 * scale).all()
