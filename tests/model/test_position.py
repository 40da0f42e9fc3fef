"""Positions: rotations against complex numbers, and what they must leave unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.position import POSITIONS, LearnedConfig, RoPEConfig, Rotation, rotate

HEAD = 16


def heads(*, length: int = 6, rows: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(length, rows, 3, HEAD, generator=torch.Generator().manual_seed(seed))


def rotation_of(positions_BT: Tensor, theta: float = 10000.0) -> Rotation:
    return RoPEConfig(theta=theta).rotation(positions_BT, HEAD)


def test_a_pair_of_features_turns_as_a_complex_number() -> None:
    positions_BT = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 7]])
    x_TBHK = heads()
    turned = rotate(x_TBHK, rotation_of(positions_BT, theta=500.0))
    x = x_TBHK.double()
    for feature in range(HEAD // 2):
        angle_TB1 = positions_BT.T[..., None].double() * 500.0 ** (-2 * feature / HEAD)
        pair = torch.complex(x[..., feature], x[..., feature + HEAD // 2]) * torch.exp(1j * angle_TB1)
        torch.testing.assert_close(turned[..., feature].double(), pair.real, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(turned[..., feature + HEAD // 2].double(), pair.imag, rtol=1e-6, atol=1e-6)


def test_products_depend_on_the_distance_alone() -> None:
    q, k = heads(length=1, rows=1, seed=2), heads(length=1, rows=1, seed=3)

    def product(query: int, key: int) -> Tensor:
        at = [rotation_of(torch.tensor([[place]])) for place in (query, key)]
        return (rotate(q, at[0]) * rotate(k, at[1])).sum(-1)

    torch.testing.assert_close(product(11, 4), product(107, 100), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(product(11, 4), product(11, 5), rtol=1e-2)


def test_gradients_are_those_of_finite_differences() -> None:
    rotation = rotation_of(torch.arange(4).expand(2, 4))
    x = heads(length=4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotate(x, rotation), (x,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_dtype_stays_and_lengths_too(dtype: torch.dtype) -> None:
    x = heads().to(dtype)
    turned = rotate(x, rotation_of(torch.arange(6).expand(2, 6)))
    assert turned.dtype == dtype
    assert torch.equal(turned[0], x[0])  # position 0
    assert not torch.equal(turned[1:], x[1:])
    torch.testing.assert_close(turned.float().norm(dim=-1), x.float().norm(dim=-1), rtol=1e-2, atol=0)


def test_far_positions_keep_their_angles_under_bfloat16() -> None:
    """bfloat16 has no whole numbers above 256: the angles are fp32 whatever the model is."""
    rotation = rotation_of(torch.tensor([[4095, 4096]]))
    assert rotation.cos.dtype == torch.float32
    assert rotation.cos[0, 0, 0, 0] == pytest.approx(torch.tensor(4095.0).cos().item(), abs=1e-6)
    assert rotation.cos[0, 0, 0, 0] != rotation.cos[1, 0, 0, 0]


@pytest.mark.parametrize("name", POSITIONS.names())
def test_a_rotation_has_as_many_numbers_as_are_counted(name: str) -> None:
    config = POSITIONS[name]()
    rotation = config.rotation(torch.arange(10)[None], HEAD)
    kept = 0 if rotation is None else sum(each.numel() for each in rotation) // 10
    assert config.kept_per_token(HEAD) == kept


def test_learned_positions_are_looked_up() -> None:
    table = LearnedConfig().table(5, 8)
    with torch.no_grad():
        for parameter in table.parameters():
            parameter.copy_(torch.arange(40.0).view(5, 8))
    out_TBD = table(torch.tensor([[0, 1, 0], [4, 0, 1]]))
    assert out_TBD[:, :, 0].tolist() == [[0.0, 32.0], [8.0, 0.0], [0.0, 8.0]]
