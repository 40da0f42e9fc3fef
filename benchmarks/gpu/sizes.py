"""The models whose speed is measured on one GPU, and their goals. Nothing of lehr is imported here."""

from __future__ import annotations

from dataclasses import dataclass

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


SIZES = {
    "160M": Size(12, 768, 12, 2048, 16, goal=460_000),
    "410M": Size(24, 1024, 16, 2816, 8, goal=181_000),
    "1.3B": Size(24, 2048, 16, 5632, 4, goal=60_000),
}
TINY_SIZE = Size(2, 64, 2, 128, 2, vocab_size=512)
TINY_SEQ_LENGTH = 64
