"""The parameters of a 60M Llama, for the benchmarks of optimizers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

HIDDEN, LAYERS, FFN, VOCAB = 512, 8, 1376, 32000


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of the parameters: hidden 512, 8 layers, FFN 1376, vocabulary 32000."""
    result: dict[str, tuple[int, ...]] = {"embedding.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        at = f"layers.{layer}"
        result[f"{at}.attention_norm.weight"] = (HIDDEN,)
        result |= {f"{at}.attention.{name}.weight": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "out")}
        result[f"{at}.mlp_norm.weight"] = (HIDDEN,)
        result |= {f"{at}.mlp.{name}.weight": (FFN, HIDDEN) for name in ("gate", "up")}
        result[f"{at}.mlp.down.weight"] = (HIDDEN, FFN)
    return result | {"final_norm.weight": (HIDDEN,), "head.weight": (VOCAB, HIDDEN)}


def is_matrix(name: str) -> bool:
    """Returns whether Conda and Muon update it: it is a linear map of a layer."""
    return name.startswith("layers.") and "norm" not in name


def fresh(names: list[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yields (name, weight, gradient), with the same values on every call."""
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes().items():
        weight = torch.randn(shape, generator=generator) * 0.02
        gradient = torch.randn(shape, generator=generator) * 1e-3
        if name in names:
            yield name, weight, gradient
