"""Norms and dot products against float64, at sizes where float32 sums that are added up one by one fail."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from optim.sums import dot, squared_norms, sum_of_squares

CPU = torch.device("cpu")
MANY = 6_000_000
SIZES = [0, 1, 1023, 1024, 1025, 300_000, MANY, MANY + 1]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def exact(x: Tensor) -> Tensor:
    return x.double().square().sum(-1)


def test_torchs_norm_and_dot_of_one_tensor_fail_at_this_size() -> None:
    """torch still adds up naively. If this test fails one day, optim/sums.py can go."""
    x = draw(MANY)
    assert abs(float(torch.linalg.vector_norm(x)) / math.sqrt(float(exact(x))) - 1) > 5e-5
    assert abs(float(torch.dot(x, x)) / float(exact(x)) - 1) > 5e-6


@pytest.mark.parametrize("size", SIZES)
def test_squared_norms_are_those_of_float64(size: int) -> None:
    x = draw(size)
    torch.testing.assert_close(squared_norms(x), exact(x), rtol=2e-7, atol=0)


def test_small_elements_behind_large_ones_count() -> None:
    """So are an embedding's gradients: tokens that are rare have small ones."""
    x = draw(MANY)
    x[: MANY // 100] *= 100
    torch.testing.assert_close(squared_norms(x), exact(x), rtol=2e-7, atol=0)


@pytest.mark.parametrize("columns", [5, 10_000])
def test_rows_may_lie_anywhere_in_memory(columns: int) -> None:
    x = draw(3, columns, 7).mT
    torch.testing.assert_close(squared_norms(x), exact(x), rtol=5e-7, atol=0)
    torch.testing.assert_close(squared_norms(x.bfloat16()), exact(x.bfloat16()), rtol=1e-2, atol=0)


def test_the_sum_over_tensors_is_that_of_all_their_elements() -> None:
    tensors = [draw(2500, 2000), draw(7), draw(0), draw(300, 200).T, torch.tensor(2.0)]
    wanted = sum(float(exact(tensor.flatten())) for tensor in tensors)
    found = sum_of_squares(tensors, CPU)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(wanted, rel=2e-7)
    assert float(sum_of_squares([], CPU)) == 0.0


@pytest.mark.parametrize("spoilt", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("position", [0, 5000, 9999])
def test_what_is_not_finite_is_seen(spoilt: float, position: int) -> None:
    x = draw(10_000)
    x[position] = spoilt
    assert not torch.isfinite(sum_of_squares([draw(10), x], CPU))


@pytest.mark.parametrize("size", SIZES[1:])
def test_dot_products_are_those_of_float64(size: int) -> None:
    a, b = draw(size), draw(size).abs()
    wanted, scale = torch.dot(a.double(), b.double()), (exact(a) * exact(b)).sqrt()
    assert abs(dot(a, b) - wanted) <= 2e-7 * scale
    torch.testing.assert_close(dot(a, a), exact(a), rtol=1e-6, atol=0)
