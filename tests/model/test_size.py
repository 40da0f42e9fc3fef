"""Sizes by arithmetic against real models: parameters exactly, activations by the tensors that are alive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from live_memory import bytes_kept

from model.attention import KERNELS
from model.config import ModelConfig
from model.init import initialise
from model.layers import TorchLayers
from model.mlps import MLPS
from model.norms import NORMS
from model.position import POSITIONS
from model.size import (
    LayoutSizes,
    RankBytes,
    block_bytes_per_token,
    flops_per_token,
    non_embedding_parameters,
    parameters,
    rank_bytes,
)
from model.transformer import Transformer

SMALL: dict[str, Any] = {"num_layers": 3, "hidden_size": 64, "num_heads": 4, "ffn_size": 160, "vocab_size": 256}
GPT2: dict[str, Any] = {"norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True}


def model_of(config: ModelConfig, recompute: Any = "none") -> Transformer:
    return Transformer(config, seq_length=32, layers=TorchLayers(), attend=KERNELS["sdpa"], recompute=recompute)


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


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("style", [{}, GPT2, {"qk_norm": True, "num_kv_heads": 2}])
def test_activations_are_what_a_real_model_keeps(style: dict[str, Any], dtype: torch.dtype, recompute: Any) -> None:
    rows, length = 8, 32
    objective = {"name": "next_token", "chunk_tokens": 16}
    config = ModelConfig.model_validate({**SMALL, **style, "objective": objective})
    layout = LayoutSizes(recompute=recompute, bfloat16=dtype == torch.bfloat16)
    model = model_of(config, recompute)
    initialise(model.named_parameters(), config.init, num_layers=config.num_layers, seed=0)
    model.to(dtype)
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    positions = torch.arange(length).expand(rows, length)
    weights = torch.full((rows, length), 1 / (rows * length))
    kept = bytes_kept(lambda: model.loss(model(tokens, None, positions), tokens, weights).total)
    expected = rank_bytes(config, layout, seq_length=length, micro_batch_size=rows).activations
    if recompute == "full":  # which counts the block that is run again in the backward pass
        again = LayoutSizes(bfloat16=layout.bfloat16)
        expected -= round(rows * length * block_bytes_per_token(config, again))
    assert kept == pytest.approx(expected, rel=0.02)


def test_layouts_share_what_they_say() -> None:
    config = ModelConfig.model_validate({**SMALL, "num_layers": 8})

    def bytes_of(**layout: Any) -> RankBytes:
        return rank_bytes(config, LayoutSizes(**layout), seq_length=32, micro_batch_size=2)

    whole = bytes_of()
    norms = (2 * 8 + 1) * 64
    assert whole.weights == whole.gradients == 4 * parameters(config, seq_length=32)
    assert whole.optimizer == 2 * whole.weights
    assert bytes_of(data=4, zero=1).optimizer == pytest.approx(whole.optimizer / 4, abs=1)
    assert bytes_of(data=4, zero=1).gradients == whole.gradients
    assert bytes_of(data=4, zero=2).gradients == pytest.approx(whole.gradients / 4, abs=1)
    assert bytes_of(data=4, zero=3).weights == pytest.approx(whole.weights / 4, abs=1)
    assert bytes_of(tensor=2).weights == whole.weights / 2 + 4 * norms / 2
    assert bytes_of(bfloat16=True).optimizer == 1.5 * whole.optimizer
    assert bytes_of(recompute="full").activations < bytes_of(recompute="selective").activations < whole.activations
    assert bytes_of(tensor=2, sequence=True).activations < bytes_of(tensor=2).activations < whole.activations


def test_a_pipeline_holds_its_layers_and_what_is_in_flight() -> None:
    config = ModelConfig.model_validate({**SMALL, "num_layers": 8})
    per_layer = parameters(config, seq_length=32) - parameters(
        config.model_copy(update={"num_layers": 7}), seq_length=32
    )
    table = 256 * 64

    def bytes_of(micro_batches: int | None = None, **layout: Any) -> RankBytes:
        sizes = LayoutSizes(pipeline=4, **layout)
        return rank_bytes(config, sizes, seq_length=512, micro_batch_size=4, micro_batches=micro_batches)

    block = 4 * 512 * block_bytes_per_token(config, LayoutSizes())
    rotation = 4 * 512 * 2 * 16 * 4
    first = bytes_of()  # here activations weigh more than the head does on the last stage
    assert first.weights == 4 * (2 * per_layer + table)
    assert first.activations == 4 * (2 * block + rotation)  # a micro-batch for each stage
    assert bytes_of(micro_batches=2).activations == 2 * (2 * block + rotation)
    assert bytes_of(virtual_stages=2).activations == 11 * (block + rotation)  # 2 (p - 1) + (v - 1) p + 1 chunks
