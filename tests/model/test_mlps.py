"""Every registered MLP: gradients, dtypes, names, recomputation; the two against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.layers import ROW_WEIGHT, TorchLayers
from model.mlps import MLPS
from model.parameter import specs_of
from model.recompute import recomputing, saving

HIDDEN, FFN = 8, 20


def built(name: str, *, bias: bool = True, save_or_recompute: Any = saving) -> nn.Module:
    mlp = MLPS[name]().build(HIDDEN, FFN, bias=bias, layers=TorchLayers(), save_or_recompute=save_or_recompute)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return mlp


def states(seed: int = 2) -> Tensor:
    return torch.randn(3, 2, HIDDEN, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", MLPS.names())
@pytest.mark.parametrize("save_or_recompute", [saving, recomputing])
def test_gradients_are_those_of_finite_differences(name: str, save_or_recompute: Any) -> None:
    mlp = built(name, save_or_recompute=save_or_recompute).double()
    x = states().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: mlp(x), (x, *mlp.parameters()))


@pytest.mark.parametrize("name", MLPS.names())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_dtype_stays(name: str, dtype: torch.dtype) -> None:
    mlp = built(name).to(dtype)
    x = states().to(dtype).requires_grad_()
    out = mlp(x)
    out.sum().backward()
    assert x.grad is not None
    assert out.dtype == x.grad.dtype == dtype


@pytest.mark.parametrize("name", MLPS.names())
def test_each_token_alone_and_the_same_twice(name: str) -> None:
    mlp = built(name)
    x = states()
    assert torch.equal(mlp(x), mlp(x))
    torch.testing.assert_close(mlp(x)[1:2], mlp(x[1:2]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MLPS.names())
@pytest.mark.parametrize("bias", [False, True])
def test_matrices_are_counted_and_the_last_one_is_down(name: str, bias: bool) -> None:
    """`down` is added to the residual; the matrices are counted for FLOPs and activations."""
    shapes = {key: tuple(parameter.shape) for key, parameter in built(name, bias=bias).named_parameters()}
    assert shapes["down.weight"] == (HIDDEN, FFN)
    matrices = [key for key, shape in shapes.items() if len(shape) == 2]
    biases = [key for key in shapes if key.endswith("bias")]
    assert specs_of(built(name, bias=bias))["down.weight"] == ROW_WEIGHT
    assert len(matrices) == MLPS[name]().matrices()
    assert all(sorted(shapes[key]) == sorted((HIDDEN, FFN)) for key in matrices)
    assert len(biases) == bias * len(matrices)


def test_swiglu_and_gelu_are_their_formulas() -> None:
    x = states()
    swiglu, gelu = built("swiglu"), built("gelu")
    w = dict(swiglu.named_parameters())
    gate = x @ w["gate.weight"].T + w["gate.bias"]
    up = x @ w["up.weight"].T + w["up.bias"]
    wanted = (gate * torch.sigmoid(gate) * up) @ w["down.weight"].T + w["down.bias"]
    torch.testing.assert_close(swiglu(x), wanted)
    w = dict(gelu.named_parameters())
    up = x @ w["up.weight"].T + w["up.bias"]
    curved = 0.5 * up * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (up + 0.044715 * up**3)))
    torch.testing.assert_close(gelu(x), curved @ w["down.weight"].T + w["down.bias"])
