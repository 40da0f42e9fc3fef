"""The config of the model: the section `model` of a run."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from model.init_schemes import INITS, InitConfig, NormalConfig, ScaledConfig
from model.mlps import MLPS, MLPConfig, SwiGLUConfig
from model.norms import NORMS, NormConfig, RMSNormConfig
from model.objectives import OBJECTIVES, NextTokenConfig, ObjectiveConfig
from model.position import POSITIONS, PositionConfig, RoPEConfig
from settings import Settings, UserError

VOCABULARY_MULTIPLE = 128  # so that it can be sharded over many ranks, and matrix products have round sizes


class ModelConfig(Settings):
    """A decoder-only transformer. The defaults are Llama's; GPT-2's are layernorm, gelu, learned, bias, tied."""

    num_layers: int = Field(gt=0, le=4096, description="Transformer layers.")
    hidden_size: int = Field(gt=0, le=2**20, description="Features of a token between the layers.")
    num_heads: int = Field(gt=0, le=2**16, description="Attention heads; their number must divide hidden_size.")
    num_kv_heads: int | None = Field(
        None,
        gt=0,
        le=2**16,
        description="Key-value heads; their number must divide num_heads. null means as many as num_heads.",
    )
    ffn_size: int = Field(gt=0, le=2**24, description="Hidden features of each MLP.")
    vocab_size: int | None = Field(
        None,
        gt=1,
        le=2**31,
        description="Rows of the embedding; null means the tokenizer's entries, rounded up to a multiple of 128.",
    )
    norm: Annotated[NormConfig, NORMS.field] = Field(
        RMSNormConfig(), description="Norm before each block and the head."
    )
    mlp: Annotated[MLPConfig, MLPS.field] = Field(SwiGLUConfig(), description="MLP of each layer.")
    position: Annotated[PositionConfig, POSITIONS.field] = Field(
        RoPEConfig(), description="How the position of a token enters the model."
    )
    qk_norm: bool = Field(False, description="Whether the queries and keys of each head are normalised.")
    tied_embeddings: bool = Field(False, description="Whether the head is the embedding, transposed.")
    bias: bool = Field(False, description="Whether the linear layers, and layernorm, have a bias.")
    norm_scaling: Literal["none", "layernorm_scaling"] = Field(
        "none",
        description="layernorm_scaling multiplies both norms of layer l, counted from 1, by 1/sqrt(l) "
        "(arXiv 2502.05795).",
    )
    init: Annotated[InitConfig, INITS.field] = Field(NormalConfig(), description="Initial weights.")
    objective: Annotated[ObjectiveConfig, OBJECTIVES.field] = Field(NextTokenConfig(), description="What is minimised.")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.hidden_size % self.num_heads:
            above = -(-self.hidden_size // self.num_heads) * self.num_heads
            raise ValueError(
                f"hidden_size = {self.hidden_size} must be divisible by num_heads = {self.num_heads}; "
                f"set hidden_size to {above}, or num_heads to {_largest_divisor(self.hidden_size, self.num_heads)}"
            )
        if self.num_heads % self.kv_heads:
            fits = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            raise ValueError(
                f"num_heads = {self.num_heads} must be divisible by num_kv_heads = {self.kv_heads}; "
                f"set num_kv_heads to one of {', '.join(map(str, fits))}"
            )
        if isinstance(self.position, RoPEConfig) and self.head_size % 2:
            raise ValueError(
                f"position = rope turns pairs of features: hidden_size / num_heads = {self.head_size} must be even"
            )
        return self

    @property
    def kv_heads(self) -> int:
        """The number of key-value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_size(self) -> int:
        """The features of one head."""
        return self.hidden_size // self.num_heads

    @property
    def vocabulary(self) -> int:
        """vocab_size. Raises UserError if it is not known yet."""
        if self.vocab_size is None:
            raise UserError("model.vocab_size is not known before the shards are; set it, or name the shards")
        return self.vocab_size

    def norm_scale(self, layer: int) -> float:
        """Returns LayerNorm Scaling's factor (arXiv 2502.05795) of both norms of the global 0-based layer."""
        return (layer + 1) ** -0.5 if self.norm_scaling == "layernorm_scaling" else 1.0

    def with_vocabulary(self, entries: int) -> ModelConfig:
        """Returns this config with vocab_size filled in from a tokenizer's number of entries.

        Raises UserError if a given vocab_size is smaller.
        """
        if self.vocab_size is None:
            return self.model_copy(update={"vocab_size": -(-entries // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE})
        if self.vocab_size < entries:
            raise UserError(
                f"model.vocab_size = {self.vocab_size} is smaller than the tokenizer's {entries} entries; "
                "leave it empty, or build shards with a smaller tokenizer"
            )
        return self

    def warnings(self) -> list[str]:
        """Returns a line for each combination that is allowed and probably not intended."""
        found = []
        if self.norm_scaling == "layernorm_scaling" and isinstance(self.init, ScaledConfig):
            found.append(
                "model.norm_scaling = layernorm_scaling and model.init = scaled both damp deep layers, and together "
                "do worse than layernorm_scaling alone (arXiv 2502.05795, table 4); set model.init to normal"
            )
        return found


def _largest_divisor(number: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if number % n == 0)
