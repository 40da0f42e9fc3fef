"""A model split into pipeline chunks that run in turn is the full model, to the bit; so is one with folded scales."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import KERNELS, AttentionMask
from model.config import ModelConfig
from model.fold import fold_scales
from model.init import initialise
from model.layers import TorchLayers
from model.parameter import specs_of
from model.transformer import Transformer

VOCABULARY, LENGTH, ROWS = 64, 20, 2
SIZES: dict[str, Any] = {
    "num_layers": 6, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 48, "vocab_size": VOCABULARY,
    "norm_scaling": "layernorm_scaling",
}  # fmt: skip
GPT2: dict[str, Any] = {"norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True}


def built(
    config: ModelConfig, layer_range: range | None = None, *, first: bool = True, last: bool = True
) -> Transformer:
    model = Transformer(
        config,
        seq_length=LENGTH,
        layers=TorchLayers(),
        attend=KERNELS["blocked"],
        layer_range=layer_range,
        first=first,
        last=last,
    )
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=1)
    with torch.no_grad():  # gains and biases that differ, so that a wrong layer's number shows
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


def batch() -> tuple[Tensor, AttentionMask | None, Tensor]:
    tokens_BT = torch.randint(0, VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(2))
    documents_BT = (torch.arange(LENGTH) >= 8).int().expand(ROWS, LENGTH)
    return (
        tokens_BT,
        AttentionMask.from_documents(documents_BT, kernel="blocked", dtype=torch.float32),
        torch.arange(LENGTH).expand(2, -1),
    )


@pytest.mark.parametrize("style", [{}, GPT2, {"tied_embeddings": True}])
@pytest.mark.parametrize("cuts", [[0, 6], [0, 3, 6], [0, 1, 2, 5, 6], [0, 0, 6, 6]])
def test_chunks_in_turn_are_the_full_model(style: dict[str, Any], cuts: list[int]) -> None:
    config = ModelConfig.model_validate({**SIZES, **style})
    ranges = [range(start, end) for start, end in itertools.pairwise(cuts)]
    chunks = [
        built(config, layers, first=number == 0, last=number == len(ranges) - 1) for number, layers in enumerate(ranges)
    ]
    full = built(config)
    tokens_BT, attention_mask, positions_BT = batch()
    weights_BT = torch.full((ROWS, LENGTH), 1 / (ROWS * LENGTH))
    x: Tensor | None = None
    for chunk in chunks:
        x = chunk(tokens_BT[:, :-1], attention_mask, positions_BT, x)
    assert x is not None
    chunks[-1].loss(x, tokens_BT[:, 1:], weights_BT).total.backward()
    wanted = full(tokens_BT[:, :-1], attention_mask, positions_BT)
    full.loss(wanted, tokens_BT[:, 1:], weights_BT).total.backward()
    assert torch.equal(x, wanted)
    parts: dict[str, Tensor] = {}
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            assert parameter.grad is not None, name
            parts[name] = parts[name] + parameter.grad if name in parts else parameter.grad  # a tied head's copy
    assert parts.keys() == dict(full.named_parameters()).keys()
    for name, parameter in full.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parts[name], parameter.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_interleaved_chunks_have_their_layers_scales() -> None:
    """Chunks 0 and 2 are on one rank, 1 and 3 on another: l is the global number, as in the names."""
    config = ModelConfig.model_validate({**SIZES, "num_layers": 8})
    for layers in (range(0, 2), range(4, 6)):
        chunk = built(config, layers, first=layers.start == 0, last=False)
        for name, block in chunk.layers.items():
            assert block.attention_norm.scale == block.mlp_norm.scale == (int(name) + 1) ** -0.5


@pytest.mark.parametrize("style", [{}, GPT2, {"qk_norm": True}])
def test_folded_weights_give_the_same_logits_to_the_bit(style: dict[str, Any]) -> None:
    config = ModelConfig.model_validate({**SIZES, **style})
    scaled = built(config)
    plain = built(config.model_copy(update={"norm_scaling": "none"}))
    tokens_BT, attention_mask, positions_BT = batch()
    before = plain.logits(plain(tokens_BT[:, :-1], attention_mask, positions_BT))
    plain.load_state_dict(fold_scales(scaled.state_dict(), specs_of(scaled)))
    wanted = scaled.logits(scaled(tokens_BT[:, :-1], attention_mask, positions_BT))
    assert torch.equal(plain.logits(plain(tokens_BT[:, :-1], attention_mask, positions_BT)), wanted)
    assert not torch.allclose(before, wanted)  # it was not for nothing
    weights = plain.state_dict()
    assert all(torch.equal(weights[name], again) for name, again in fold_scales(weights, specs_of(plain)).items())
