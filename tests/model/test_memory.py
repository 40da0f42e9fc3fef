"""Bytes of a rank by arithmetic: activations against the tensors of a real model that are alive, shares by layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from live_memory import LiveMemory, bytes_kept

from model.attention import KERNELS
from model.config import ModelConfig
from model.init import initialise
from model.layers import TorchLayers
from model.memory import LayoutSizes, RankBytes, block_bytes_per_token, logits_bytes, rank_bytes, stage_layers
from model.size import layers_per_chunk, parameters
from model.transformer import Transformer

SMALL: dict[str, Any] = {"num_layers": 3, "hidden_size": 64, "num_heads": 4, "ffn_size": 160, "vocab_size": 256}
GPT2: dict[str, Any] = {"norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True}


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("style", [{}, GPT2, {"qk_norm": True, "num_kv_heads": 2}])
def test_activations_are_what_a_real_model_keeps(style: dict[str, Any], dtype: torch.dtype, recompute: Any) -> None:
    rows, length = 8, 32
    objective = {"name": "next_token", "chunk_tokens": 16}
    config = ModelConfig.model_validate({**SMALL, **style, "objective": objective})
    layout = LayoutSizes(recompute=recompute, bfloat16=dtype == torch.bfloat16)
    model = Transformer(config, seq_length=length, layers=TorchLayers(), attend=KERNELS["sdpa"], recompute=recompute)
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

    one = bytes_of()
    norms = (2 * 8 + 1) * 64
    assert one.weights == one.gradients == 4 * parameters(config, seq_length=32)
    assert one.optimizer == 2 * one.weights
    assert bytes_of(data=4, zero=1).optimizer == pytest.approx(one.optimizer / 4, abs=1)
    assert bytes_of(data=4, zero=1).gradients == one.gradients
    assert bytes_of(data=4, zero=2).gradients == pytest.approx(one.gradients * (1 + 1 / 4), abs=1)  # and the bucket
    assert bytes_of(data=4, zero=3).optimizer == pytest.approx(one.optimizer * 3 / 2 / 4, abs=1)  # masters too
    assert bytes_of(data=4, zero=3).weights == pytest.approx(one.weights / 4, abs=1)
    assert bytes_of(tensor=2).weights == one.weights / 2 + 4 * norms / 2
    assert bytes_of(bfloat16=True).optimizer == 1.5 * one.optimizer
    assert bytes_of(recompute="full").activations < bytes_of(recompute="selective").activations < one.activations
    assert bytes_of(tensor=2, sequence=True).activations < bytes_of(tensor=2).activations < one.activations


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


@pytest.mark.parametrize("num_layers", [1, 7, 8, 13])
@pytest.mark.parametrize("virtual_stages", [1, 2, 3])
def test_the_layers_of_a_stage_are_those_of_its_chunks(num_layers: int, virtual_stages: int) -> None:
    config = ModelConfig.model_validate({**SMALL, "num_layers": num_layers})
    chunks = layers_per_chunk(num_layers, 3 * virtual_stages)
    assert [layer for layers in chunks for layer in layers] == list(range(num_layers))
    layout = LayoutSizes(pipeline=3, virtual_stages=virtual_stages)
    found = [stage_layers(config, layout, stage) for stage in range(3)]
    assert found == [sum(map(len, chunks[stage::3])) for stage in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_what_the_loss_holds_at_most(dtype: torch.dtype) -> None:
    """Besides the gradients of the head, which are summed in float32, and of the inputs."""
    tokens, chunk, hidden, vocabulary = 64, 16, 8, 4096
    objective = {"name": "next_token", "chunk_tokens": chunk}
    config = ModelConfig.model_validate(
        {**SMALL, "hidden_size": hidden, "vocab_size": vocabulary, "objective": objective}
    )
    x = torch.zeros(tokens, hidden, dtype=dtype, requires_grad=True)
    head = torch.zeros(vocabulary, hidden, dtype=dtype, requires_grad=True)
    with LiveMemory() as memory:
        config.objective.loss(x, head, torch.zeros(tokens, dtype=torch.int64), torch.ones(tokens), TorchLayers())
    gradients = head.numel() * 4 + x.nbytes
    expected = logits_bytes(config, LayoutSizes(bfloat16=dtype == torch.bfloat16), tokens=tokens)
    assert expected == chunk * vocabulary * (6 if dtype == torch.bfloat16 else 4)
    assert memory.most - gradients == pytest.approx(expected, rel=0.05)
