"""Every registered norm: gradients, dtypes, its scale; RMSNorm and LayerNorm against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from model.fold import fold_scales
from model.norms import NORMS
from model.parameter import specs_of

SIZE = 24


def built(name: str, *, bias: bool = True, scale: float = 1.0) -> nn.Module:
    norm = NORMS[name]().build(SIZE, bias=bias, scale=scale)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return norm


def rows(*leading: int, seed: int = 2) -> Tensor:
    return 3 * torch.randn(*leading, SIZE, generator=torch.Generator().manual_seed(seed)) + 1


@pytest.mark.parametrize("name", NORMS.names())
@pytest.mark.parametrize("leading", [(7,), (3, 2), (3, 2, 4)])
def test_gradients_are_those_of_finite_differences(name: str, leading: tuple[int, ...]) -> None:
    norm = built(name, scale=0.5).double()
    x = rows(*leading).double().requires_grad_()
    parameters = tuple(norm.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: norm(x), (x, *parameters))


@pytest.mark.parametrize("name", NORMS.names())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_stays(name: str, dtype: torch.dtype) -> None:
    norm = built(name).to(dtype)
    x = rows(5, 2).to(dtype).requires_grad_()
    out = norm(x)
    out.sum().backward()
    assert x.grad is not None
    assert out.dtype == x.grad.dtype == dtype
    assert all(p.grad is not None and p.grad.dtype == dtype for p in norm.parameters())


@pytest.mark.parametrize("name", NORMS.names())
def test_statistics_are_fp32_under_bfloat16(name: str) -> None:
    """The result is the fp32 one rounded once: within half a unit in the last place of bfloat16."""
    norm = built(name, scale=3**-0.5).to(torch.bfloat16)
    x = rows(64).to(torch.bfloat16)
    in_bfloat16 = norm(x)
    in_fp32 = norm.float()(x.float())
    torch.testing.assert_close(in_bfloat16.float(), in_fp32, rtol=2**-8, atol=0)


@pytest.mark.parametrize("name", NORMS.names())
def test_the_scale_multiplies_the_output_and_is_no_parameter(name: str) -> None:
    plain, scaled = built(name), built(name, scale=0.5)  # a power of two: exact
    assert torch.equal(scaled(rows(9)), 0.5 * plain(rows(9)))
    assert [n for n, _ in scaled.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert not list(scaled.buffers())
    assert torch.equal(built(name, scale=1.0)(rows(9)), plain(rows(9)))


@pytest.mark.parametrize("name", NORMS.names())
def test_the_declared_scales_fold_into_the_weights(name: str) -> None:
    """An export is of a model without scales."""
    scaled, plain = built(name, scale=3**-0.5), built(name)
    plain.load_state_dict(fold_scales(scaled.state_dict(), specs_of(scaled)))
    torch.testing.assert_close(plain(rows(9)), scaled(rows(9)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NORMS.names())
def test_the_same_twice_and_whatever_else_is_in_the_batch(name: str) -> None:
    norm = built(name)
    x = rows(6, 2)
    assert torch.equal(norm(x), norm(x))
    assert torch.equal(norm(x)[:3], norm(x[:3].contiguous()))


@pytest.mark.parametrize("name", ["rmsnorm", "layernorm"])
def test_against_torch(name: str) -> None:
    norm = built(name, scale=0.7)
    theirs: nn.Module = nn.RMSNorm(SIZE, eps=1e-5) if name == "rmsnorm" else nn.LayerNorm(SIZE, eps=1e-5)
    theirs.load_state_dict(norm.state_dict())
    x, x_theirs = rows(50, 2).requires_grad_(), rows(50, 2).requires_grad_()
    pull = rows(50, 2, seed=3)
    out, wanted = norm(x), 0.7 * theirs(x_theirs)
    torch.testing.assert_close(out, wanted)
    out.backward(pull)
    wanted.backward(pull)
    torch.testing.assert_close(x.grad, x_theirs.grad, rtol=1e-5, atol=1e-5)
    for (key, parameter), other in zip(norm.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-5, atol=1e-4, msg=key)


@pytest.mark.parametrize("name", NORMS.names())
def test_a_row_of_zeros_is_finite(name: str) -> None:
    norm = built(name)
    x = torch.zeros(2, SIZE, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("name", NORMS.names())
@pytest.mark.parametrize("count", [16384, 262_144, 262_145])
def test_gradients_of_gains_and_shifts_are_accurate_over_many_rows(name: str, count: int) -> None:
    """QK-norm has a row for each head of each token. Added up one after the other, 262,144 rows are off by 1e-5."""
    norm, x = built(name), rows(count).requires_grad_()
    slope = rows(count, seed=4)
    norm(x).backward(slope)
    wide = built(name).double()
    wide_x = x.detach().double().requires_grad_()
    wide(wide_x).backward(slope.double())
    for found, wanted in zip((x, *norm.parameters()), (wide_x, *wide.parameters()), strict=True):
        assert found.grad is not None
        assert wanted.grad is not None
        assert (found.grad - wanted.grad).norm() < 3e-6 * wanted.grad.norm()
