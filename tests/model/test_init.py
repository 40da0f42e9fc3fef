"""Initial weights are a function of seed and name, and every parameter has some."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import KERNELS
from model.config import ModelConfig
from model.init import Wanted, draw, initialise
from model.layers import COLUMN_WEIGHT, TorchLayers
from model.parameter import spec_of
from model.transformer import Transformer

SMALL: dict[str, Any] = {"num_layers": 8, "hidden_size": 64, "num_heads": 4, "ffn_size": 160, "vocab_size": 256}
GPT2: dict[str, Any] = {
    "norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True, "tied_embeddings": True
}  # fmt: skip


def built(seed: int = 1, **more: Any) -> Transformer:
    config = ModelConfig.model_validate({**SMALL, **more})
    model = Transformer(config, seq_length=64, layers=TorchLayers(), attend=KERNELS["sdpa"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=seed)
    return model


@pytest.mark.parametrize("style", [{}, GPT2, {"qk_norm": True}])
def test_every_parameter_is_initialised(style: dict[str, Any]) -> None:
    assert all(torch.isfinite(parameter).all() for parameter in built(**style).parameters())


@pytest.mark.parametrize("style", [{}, GPT2])
@pytest.mark.parametrize("scaled", [False, True])
def test_matrices_have_their_deviation(style: dict[str, Any], scaled: bool) -> None:
    model = built(**style, init={"name": "scaled" if scaled else "normal", "std": 0.05})
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            branch = name.endswith(("attention.out.weight", "mlp.down.weight"))
            wanted = 0.05 / 4 if scaled and branch else 0.05  # sqrt(2 * 8 layers) = 4
            assert parameter.std().item() == pytest.approx(wanted, rel=0.05), name
            assert abs(parameter.mean().item()) < 4 * wanted / parameter.numel() ** 0.5, name


def test_weights_follow_from_seed_and_name_alone() -> None:
    full, again, other = built(), built(), built(seed=2)
    fewer = dict(built(num_layers=3).named_parameters())
    for name, parameter in full.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
        if name in fewer:
            assert torch.equal(parameter, fewer[name])
    changed = [n for n, p in full.named_parameters() if p.ndim == 2 and not torch.equal(p, other.get_parameter(n))]
    assert len(changed) == sum(p.ndim == 2 for p in full.parameters())
    flat = [parameter.flatten()[:16] for parameter in full.parameters() if parameter.ndim == 2]
    assert len({tuple(values.tolist()) for values in flat}) == len(flat)  # no two matrices alike


def drawn(model: Transformer, *, threads: int, backwards: bool = False) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    wanted = [
        Wanted(name, spec_of(parameter, name), tuple(parameter.shape), partial(values.__setitem__, name))
        for name, parameter in model.named_parameters()
    ]
    draw(wanted[:: -1 if backwards else 1], model.config.init, num_layers=8, seed=1, threads=threads)
    return values


def test_threads_and_their_order_change_no_bit() -> None:
    model = built()
    one, four = drawn(model, threads=1), drawn(model, threads=4, backwards=True)
    for name, parameter in model.named_parameters():
        assert torch.equal(one[name], parameter)
        assert torch.equal(four[name], parameter)


def test_an_error_of_a_thread_is_raised() -> None:
    def refuse(full: Tensor) -> None:
        raise ValueError("no memory")

    wanted = [Wanted("head.weight", COLUMN_WEIGHT, (4, 4), refuse)]
    with pytest.raises(ValueError, match="no memory"):
        draw(wanted, ModelConfig.model_validate(SMALL).init, num_layers=8, seed=1)
