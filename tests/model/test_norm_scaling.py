"""LayerNorm Scaling (arXiv 2502.05795): the first block is as without, recomputation is exact, and what it is for.

Layouts are tests/parallel/test_norm_scaling_in_layouts.py's affair, folding and chunks tests/model/test_chunks.py's.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import KERNELS
from model.config import ModelConfig
from model.init import initialise
from model.layers import TorchLayers
from model.recompute import Recompute
from model.transformer import Transformer

GPT2: dict[str, Any] = {"norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True}
LAYERS, SIZE, FFN, ROWS = 32, 128, 256, 256


def built(
    scaling: str, *, layer_range: range, recompute: Recompute = "none", seed: int = 1, **style: Any
) -> Transformer:
    sizes = {"num_layers": LAYERS, "hidden_size": SIZE, "num_heads": 4, "ffn_size": FFN, "vocab_size": 64}
    config = ModelConfig.model_validate({**sizes, "norm_scaling": scaling, **style})
    model = Transformer(
        config,
        seq_length=8,
        layers=TorchLayers(),
        attend=KERNELS["sdpa"],
        layer_range=layer_range,
        first=False,
        last=False,
        recompute=recompute,
    )
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=seed)
    return model


def passed(model: Transformer, length: int, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Tensor]]:
    """(the output for random inputs, the gradients of its weighted sum: the inputs' and every parameter's)."""
    generator = torch.Generator().manual_seed(5)
    x_tBD = torch.randn(length, 4, SIZE, generator=generator).to(dtype).requires_grad_()
    pull_tBD = torch.randn(length, 4, SIZE, generator=generator).to(dtype)
    positions_BT = torch.arange(length).expand(4, -1)
    out_tBD = model.to(dtype)(torch.zeros_like(positions_BT), None, positions_BT, x_tBD)
    out_tBD.backward(pull_tBD)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()} | {"x": x_tBD.grad}
    return out_tBD.detach(), {name: gradient for name, gradient in gradients.items() if gradient is not None}


@pytest.mark.parametrize("style", [{}, GPT2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_block_is_that_of_pre_norm_to_the_bit_and_the_second_is_not(
    dtype: torch.dtype, style: dict[str, Any]
) -> None:
    for layer in (0, 1):
        (out, gradients), (plain_out, plain_gradients) = (
            passed(built(scaling, layer_range=range(layer, layer + 1), **style), 8, dtype=dtype)
            for scaling in ("layernorm_scaling", "none")
        )
        assert torch.equal(out, plain_out) == (layer == 0)
        assert gradients.keys() == plain_gradients.keys()
        if layer == 0:
            assert all(torch.equal(gradients[name], plain_gradients[name]) for name in gradients)


@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_blocks_have_their_own_scale_to_the_bit(dtype: torch.dtype, recompute: Recompute) -> None:
    layers = range(2, 6)
    out, gradients = passed(built("layernorm_scaling", layer_range=layers, recompute=recompute), 8, dtype=dtype)
    wanted_out, wanted = passed(built("layernorm_scaling", layer_range=layers), 8, dtype=dtype)
    assert torch.equal(out, wanted_out)
    assert all(torch.equal(gradients[name], gradient) for name, gradient in wanted.items())


def variances(scaling: str, seed: int) -> list[float]:
    """Mean squares of the residual before the first block and after each, for rows of one random token."""
    model = built(scaling, layer_range=range(LAYERS), seed=seed, init={"name": "normal", "std": SIZE**-0.5})
    x_tBD = torch.randn(1, ROWS, SIZE, generator=torch.Generator().manual_seed(seed))
    found = [float(x_tBD.square().mean())]
    for block in model.layers.values():
        block.register_forward_hook(lambda module, args, y_tBD: found.append(float(y_tBD.square().mean())))
    with torch.no_grad():
        positions_BT = torch.zeros(ROWS, 1, dtype=torch.long)
        model(positions_BT, None, positions_BT, x_tBD)
    return [value / found[0] for value in found]


def mean_square_of_silu(variance: float) -> float:
    """E silu(a)² of a ~ N(0, variance), by quadrature."""
    z = torch.linspace(-9, 9, 10001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(torch.nn.functional.silu(z * math.sqrt(variance)).square() * density, z))


def closed_form(scaling: str) -> list[float]:
    """The same in expectation over weights of variance 1/D.

    Both branches of block l are fed vectors of mean square s = 1/l (or 1). Over one token attention is the linear map
    out · v, of gain 1: its branch adds s. SwiGLU's gate and up are N(0, s), independent: its branch adds
    ffn/D · E silu(gate)² · s, which falls faster than 1/l. Over several tokens attention averages, and its gain rises
    with depth as tokens grow alike, so there no constant gain holds.
    """
    found = [1.0]
    for layer in range(1, LAYERS + 1):
        fed = 1 / layer if scaling == "layernorm_scaling" else 1.0
        found.append(found[-1] + fed + FFN / SIZE * mean_square_of_silu(fed) * fed)
    return found


@pytest.mark.slow
def test_the_residual_grows_with_the_logarithm_of_depth_and_without_scaling_with_depth() -> None:
    for scaling in ("none", "layernorm_scaling"):
        seeds = torch.tensor([variances(scaling, seed) for seed in range(4)]).mean(0)
        for layer in (1, 2, 4, 8, 16, 32):
            assert float(seeds[layer]) == pytest.approx(closed_form(scaling)[layer], rel=0.02), (scaling, layer)
    plain, scaled = closed_form("none"), closed_form("layernorm_scaling")
    assert plain[32] / plain[16] > 1.9
    assert scaled[32] / scaled[16] < 1.15
    assert scaled[32] < 0.15 * plain[32]
