"""Counts of parameters and FLOPs against real models."""

from __future__ import annotations

from typing import Any

import pytest

from model.attention import KERNELS
from model.config import ModelConfig
from model.layers import TorchLayers
from model.mlps import MLPS
from model.norms import NORMS
from model.position import POSITIONS
from model.size import flops_per_token, local_parameters, non_embedding_parameters, parameters
from model.transformer import Transformer

SMALL: dict[str, Any] = {"num_layers": 3, "hidden_size": 64, "num_heads": 4, "ffn_size": 160, "vocab_size": 256}


def model_of(config: ModelConfig, **chunk: Any) -> Transformer:
    return Transformer(config, seq_length=32, layers=TorchLayers(), attend=KERNELS["sdpa"], **chunk)


@pytest.mark.parametrize("norm", NORMS.names())
@pytest.mark.parametrize("mlp", MLPS.names())
@pytest.mark.parametrize("position", POSITIONS.names())
@pytest.mark.parametrize("flags", [{}, {"bias": True}, {"tied_embeddings": True}, {"qk_norm": True, "num_kv_heads": 2}])
def test_parameters(norm: str, mlp: str, position: str, flags: dict[str, Any]) -> None:
    config = ModelConfig.model_validate({**SMALL, "norm": norm, "mlp": mlp, "position": position, **flags})
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


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_of_a_chunk_on_one_of_two_tensor_ranks(tied: bool) -> None:
    """The formula halves matrices and tables, but not norms and the biases of rows."""
    config = ModelConfig.model_validate(
        {**SMALL, "norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True, "tied_embeddings": tied}
    )
    matrices = 4 * 64 * 64 + 2 * 64 * 160 + 3 * 64 + 160  # with the biases of columns
    full = 2 * 2 * 64 + 2 * 64
    for num_layers, first, last in ((0, True, False), (1, True, False), (2, False, False), (3, False, True)):
        tables = 256 * 64 * (first + last) / 2
        ends = first * 32 * 64 + last * 2 * 64
        wanted = num_layers * (matrices / 2 + full) + tables + ends
        found = local_parameters(config, num_layers=num_layers, seq_length=32, first=first, last=last, tp_size=2)
        assert found == wanted
        unsharded = local_parameters(config, num_layers=num_layers, seq_length=32, first=first, last=last)
        chunk = model_of(config, layer_range=range(num_layers), first=first, last=last)
        assert unsharded == sum(p.numel() for p in chunk.parameters())
