"""Sizes by arithmetic against real models: parameters exactly, activations by what autograd saves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention import KERNELS
from model.config import ModelConfig
from model.init import initialise
from model.layers import WholeLayers
from model.size import (
    LayoutSizes,
    activation_elements_per_token,
    flops_per_token,
    non_embedding_parameters,
    parameters,
    rank_bytes,
)
from model.transformer import Transformer

SMALL: dict[str, Any] = {"num_layers": 3, "hidden_size": 64, "num_heads": 4, "ffn_size": 160, "vocab_size": 256}
GPT2: dict[str, Any] = {"norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True}


def model_of(config: ModelConfig, recompute: Any = "none") -> Transformer:
    return Transformer(config, seq_length=32, layers=WholeLayers(), attend=KERNELS["sdpa"], recompute=recompute)


@pytest.mark.parametrize("style", [{}, GPT2])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_parameters(style: dict[str, Any], tied: bool, kv_heads: int, qk_norm: bool) -> None:
    config = ModelConfig.model_validate(
        {**SMALL, **style, "tied_embeddings": tied, "num_kv_heads": kv_heads, "qk_norm": qk_norm}
    )
    assert parameters(config, seq_length=32) == sum(p.numel() for p in model_of(config).parameters())


def test_step_laws_count_of_a_published_model() -> None:
    """layers·(4h² + 3h·ffn), as arXiv 2503.04715 counts N."""
    config = ModelConfig.model_validate({**SMALL, "num_layers": 2, "hidden_size": 64, "ffn_size": 100})
    assert non_embedding_parameters(config) == 2 * (4 * 64 * 64 + 3 * 64 * 100)


def test_flops_are_six_times_the_matrices_plus_attention() -> None:
    config = ModelConfig.model_validate(SMALL)
    matrices = sum(
        p.numel() for name, p in model_of(config).named_parameters() if p.ndim == 2 and "embedding" not in name
    )
    assert flops_per_token(config, 32) == 6 * matrices + 3 * 3 * 2 * 32 * 64


@pytest.mark.parametrize("recompute", ["none", "full"])  # selective saves through hooks of its own, out of sight here
def test_activations_within_a_third_of_what_autograd_saves(recompute: Any) -> None:
    config = ModelConfig.model_validate({**SMALL, "num_layers": 8})
    model = model_of(config, recompute)
    initialise(model.named_parameters(), config, seed=0)
    parameter_addresses = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameter_addresses and tensor.is_floating_point():
            saved[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    tokens = torch.zeros(2, 32, dtype=torch.int64)
    positions = torch.arange(32).expand(2, 32)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(tokens, None, positions)
    assert output.requires_grad
    expected = 8 * activation_elements_per_token(config, LayoutSizes(recompute=recompute)) * 64
    assert sum(saved.values()) == pytest.approx(expected, rel=1 / 3)


def test_layouts_share_what_they_say() -> None:
    config = ModelConfig.model_validate({**SMALL, "num_layers": 8})

    def bytes_of(**layout: Any) -> Any:
        return rank_bytes(config, LayoutSizes(**layout), seq_length=32, micro_batch_size=2)

    whole = bytes_of()
    assert whole.weights == whole.gradients == 4 * parameters(config, seq_length=32)
    assert whole.optimizer == 2 * whole.weights
    assert bytes_of(data=4, zero=1).optimizer == pytest.approx(whole.optimizer / 4, abs=1)
    assert bytes_of(data=4, zero=1).gradients == whole.gradients
    assert bytes_of(data=4, zero=2).gradients == pytest.approx(whole.gradients / 4, abs=1)
    assert bytes_of(data=4, zero=3).weights == pytest.approx(whole.weights / 4, abs=1)
    assert bytes_of(tensor=2).weights == pytest.approx(whole.weights / 2, abs=1)
    assert bytes_of(bfloat16=True).optimizer == 1.5 * whole.optimizer
    assert bytes_of(recompute="full").activations < bytes_of(recompute="selective").activations < whole.activations
