"""The models whose speed is measured on one GPU, and their goals."""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig

SEQ_LENGTH = 2048
VOCABULARY = 50304
PEAK_FLOPS = 989e12  # bfloat16, dense, of H100 and H200: the goals' MFU is measured against it


@dataclass(frozen=True)
class Size:
    """A Llama with tied embeddings, its micro-batch, and the tokens per second that it should reach on an H200."""

    num_layers: int
    hidden_size: int
    num_heads: int
    ffn_size: int
    micro_batch_size: int
    goal: int = 0  # tokens per second
    vocab_size: int = VOCABULARY

    def model(self) -> ModelConfig:
        """Returns the section `model` of a config."""
        return ModelConfig(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            ffn_size=self.ffn_size,
            vocab_size=self.vocab_size,
            tied_embeddings=True,
        )


SIZES = {
    "160M": Size(12, 768, 12, 2048, 16, goal=460_000),
    "410M": Size(24, 1024, 16, 2816, 8, goal=181_000),
    "1.3B": Size(24, 2048, 16, 5632, 4, goal=60_000),
}
TINY_SIZE = Size(2, 64, 2, 128, 2, vocab_size=512)
TINY_SEQ_LENGTH = 64
