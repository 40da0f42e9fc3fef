"""Initial weights are a function of seed and name, and every parameter has some."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.attention import KERNELS
from model.config import ModelConfig
from model.init import initialise
from model.layers import COLUMN_WEIGHT, TorchLayers
from model.parameter import declare
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


def test_a_rank_takes_its_shard_of_the_full_parameter() -> None:
    config = ModelConfig.model_validate(SMALL)
    name = "layers.2.attention.q.weight"
    shard = declare(torch.empty(32, 64), COLUMN_WEIGHT)

    def take_shard(name: str, parameter: nn.Parameter, full: Tensor) -> Tensor:
        return full[32:]

    initialise(
        [(name, shard)],
        config.init,
        num_layers=config.num_layers,
        seed=1,
        take_shard=take_shard,
        full_shape=lambda *_: (64, 64),
    )
    assert torch.equal(shard, built().get_parameter(name)[32:])
