"""One tensor of a Hugging Face folder, and the tensors of lehr that it holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """A tensor of transformers: lehr's tensors one below the other, transposed for [in, out]; zeros if it has none."""

    name: str
    shape: Shape
    parts: tuple[tuple[str, Shape], ...]  # lehr's tensors, by global name
    transposed: bool = False

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def to_huggingface(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Returns the tensor of transformers, contiguous, from lehr's tensors by name."""
        if not self.parts:
            return torch.zeros(self.shape)
        parts = [weights[name] for name, _ in self.parts]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (joined.T if self.transposed else joined).contiguous()

    def to_lehr(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yields lehr's tensors by name, contiguous, from the tensor of transformers."""
        joined = tensor.T if self.transposed else tensor
        parts = joined.split([shape[0] for _, shape in self.parts])
        for (name, _), part in zip(self.parts, parts, strict=True):
            yield name, part.contiguous()
