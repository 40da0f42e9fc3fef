"""The configs of the models that are measured."""

from __future__ import annotations

from gpu.sizes import Size
from model.config import ModelConfig


def model_of(size: Size) -> ModelConfig:
    """Returns the section `model` of a config."""
    return ModelConfig(
        num_layers=size.num_layers,
        hidden_size=size.hidden_size,
        num_heads=size.num_heads,
        num_kv_heads=size.num_heads,
        ffn_size=size.ffn_size,
        vocab_size=size.vocab_size,
        tied_embeddings=True,
    )
