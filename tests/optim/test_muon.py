"""Muon against torch.optim.Muon and against the closed form on singular values."""

from __future__ import annotations

from typing import Any

import optim_cases as cases
import optim_oracles as oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_cases import Case
from processes import run_ranks
from torch import Tensor

from optim.muon import MuonConfig, orthogonalise

FORMS = {
    "layers.0.tall.weight": Case((20, 8), 0),
    "layers.0.wide.weight": Case((8, 20), 0),
    "layers.0.square.weight": Case((8, 8), 1),
    "layers.1.tall.weight": Case((20, 8), 1),
    "layers.1.wide.weight": Case((8, 20), 1),
    "layers.2.tall.weight": Case((20, 8), 1),
    "layers.3.tall.weight": Case((20, 8), 1),
    "layers.0.replicated.weight": Case((5, 7), None),
}


def config_of(**values: Any) -> MuonConfig:
    return MuonConfig.model_validate({"lr": 0.02, **values})


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(("scale", "torch_name"), [("original", "original"), ("match_rms_adamw", "match_rms_adamw")])
def test_in_bfloat16_it_is_torch_s_class(nesterov: bool, scale: str, torch_name: str) -> None:
    config = config_of(precision="bfloat16", nesterov=nesterov, update_scale=scale)
    params, _ = cases.trained(config, FORMS, 20, lr=0.02)
    twins = {name: torch.nn.Parameter(weight) for name, weight in cases.weights(FORMS).items()}
    reference = torch.optim.Muon(
        twins.values(), lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=nesterov, adjust_lr_fn=torch_name
    )
    for step in range(20):
        for name, grad in cases.gradients(FORMS, step).items():
            twins[name].grad = grad
        reference.step()
    for param in params:  # batched products may round elsewhere: a bfloat16 ulp is 4e-3 of an update of 0.02
        torch.testing.assert_close(param.weight, twins[param.name].detach(), rtol=0, atol=2e-3)
        assert cases.relative(param.weight, twins[param.name].detach()) < 2e-4


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_closed_form_in_float64(nesterov: bool) -> None:
    config = config_of(precision="float32", nesterov=nesterov)
    params, _ = cases.trained(config, FORMS, 10, lr=0.02, dtype=torch.float64)
    rule = oracles.muon(momentum=0.95, nesterov=nesterov, weight_decay=0.1)
    for param in params:
        grads = [cases.gradients(FORMS, step, torch.float64)[param.name] for step in range(10)]
        expected = rule(cases.weights(FORMS, dtype=torch.float64)[param.name], grads, 0.02)
        torch.testing.assert_close(param.weight, expected, rtol=1e-9, atol=1e-10)


@given(rows=st.integers(1, 16), columns=st.integers(1, 16), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=60, database=None)
def test_the_iteration_ignores_scale_and_commutes_with_transposition_and_rotation(
    rows: int, columns: int, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, rows, columns, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64)).Q
    result = orthogonalise(x, 5)
    close = {"rtol": 1e-6, "atol": 1e-8}
    torch.testing.assert_close(orthogonalise(x * scale, 5), result, **close)
    torch.testing.assert_close(orthogonalise(x.mT, 5), result.mT, **close)
    torch.testing.assert_close(orthogonalise(rotation @ x, 5), rotation @ result, **close)


def test_singular_values_end_near_one() -> None:
    x = torch.randn(3, 64, 128, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(x, 5))
    assert 0.65 < float(values.min()) < float(values.max()) < 1.25


def test_zero_momentum_gives_a_zero_update() -> None:
    assert torch.equal(orthogonalise(torch.zeros(2, 3, 4), 5), torch.zeros(2, 3, 4))


def _on_ranks(dtype: torch.dtype) -> dict[str, Tensor]:
    ranks = cases.process_ranks()
    params, _ = cases.trained(config_of(), FORMS, 30, lr=0.02, dtype=dtype, ranks=ranks)
    dims = {name: case.dim for name, case in FORMS.items()}
    return {p.name: p.weight if dims[p.name] is None else ranks.gather(p.weight, dims[p.name] or 0) for p in params}


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_two_tensor_ranks_equal_full_matrices(dtype: torch.dtype, bound: float) -> None:
    weights, other = run_ranks(2, _on_ranks, dtype)
    rule = oracles.muon(momentum=0.95, nesterov=True, weight_decay=0.1)
    for name, start in cases.weights(FORMS, dtype=dtype).items():
        grads = [cases.gradients(FORMS, step, dtype)[name] for step in range(30)]
        assert cases.relative(weights[name], rule(start, grads, 0.02)) < bound, name
        assert torch.equal(weights[name], other[name])


def test_memory_is_one_momentum() -> None:
    _, optimizer = cases.trained(config_of(), {"layers.0.tall.weight": Case((20, 8), 0)}, 1, lr=0.02)
    assert sum(value.tensor.numel() for value in optimizer.state().values()) == 20 * 8


@pytest.mark.parametrize("shape", [(2, 1500, 3000), (2, 3000, 1500)])
def test_the_iteration_starts_from_matrices_of_norm_one_also_if_they_are_large(shape: tuple[int, ...]) -> None:
    x = orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0)), 0).double()
    torch.testing.assert_close(x.square().sum((1, 2)), torch.ones(2, dtype=torch.float64), rtol=5e-7, atol=0)
