"""What the model is built from and does not know: the kind of its linear and embedding layers.

`Layers` is the contract; `TorchLayers` are plain torch layers on one process (the oracle of every parity test).
`parallel` gives Megatron's layers, which cut matrices over the tensor-parallel ranks.

Shapes: T sequence, B batch, D hidden_size, O features of one output, V vocabulary;
lower-case t, o, i, v are one rank's share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Layers(Protocol):
    """Builds layers, and crosses between what a rank holds of a tensor and the whole."""

    tp_size: int  # ranks over which heads, ffn features and vocabulary are cut; 1: not cut
    rank: int  # which share is this rank's

    def column(self, in_size: int, out_size: int, *, bias: bool) -> nn.Module:
        """A linear map cut over its outputs: `weight` [o, in], `bias` [o] or None. Called through `project`."""
        ...

    def project(self, x_tBD: Tensor, columns: Sequence[nn.Module]) -> tuple[Tensor, ...]:
        """[t, B, D] -> [T, B, o] for each column layer; the input enters the tensor-parallel region once for all."""
        ...

    def row(self, in_size: int, out_size: int, *, bias: bool) -> nn.Module:
        """A linear map cut over its inputs: `weight` [out, i]; called with [T, B, i], gives [t, B, out] summed."""
        ...

    def embedding(self, vocab_size: int, hidden_size: int) -> nn.Module:
        """`weight` [v, D]; called with tokens [B, T] gives [T, B, D], whole on every rank."""
        ...

    def scatter_sequence(self, x_TBD: Tensor) -> Tensor:
        """[T, B, D] -> [t, B, D]: under sequence parallelism this rank's slice, else x itself."""
        ...

    def enter(self, x_tBD: Tensor) -> Tensor:
        """[t, B, D] -> [T, B, D], the whole sequence; backward sums the ranks' gradients. Before a cut output head."""
        ...

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the tensor-parallel ranks, without a gradient."""
        ...

    def max(self, x: Tensor) -> Tensor:
        """The maximum over the tensor-parallel ranks, without a gradient."""
        ...


class Column(nn.Module):
    """Weight [out, in] and bias of one column of `TorchLayers`."""

    def __init__(self, in_size: int, out_size: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_size, in_size))
        self.bias = nn.Parameter(torch.empty(out_size)) if bias else None


class Embedding(nn.Module):
    """Tokens [B, T] -> [T, B, D]."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return nn.functional.embedding(tokens_BT.transpose(0, 1), self.weight)


class TorchLayers:
    """Plain torch: every matrix whole, on one process."""

    tp_size = 1
    rank = 0

    def column(self, in_size: int, out_size: int, *, bias: bool) -> nn.Module:
        return Column(in_size, out_size, bias=bias)

    def project(self, x_tBD: Tensor, columns: Sequence[nn.Module]) -> tuple[Tensor, ...]:
        return tuple(nn.functional.linear(x_tBD, column.weight, column.bias) for column in columns)  # type: ignore[arg-type]

    def row(self, in_size: int, out_size: int, *, bias: bool) -> nn.Module:
        return nn.Linear(in_size, out_size, bias=bias)

    def embedding(self, vocab_size: int, hidden_size: int) -> nn.Module:
        return Embedding(vocab_size, hidden_size)

    def scatter_sequence(self, x_TBD: Tensor) -> Tensor:
        return x_TBD

    def enter(self, x_tBD: Tensor) -> Tensor:
        return x_tBD

    def sum(self, x: Tensor) -> Tensor:
        return x

    def max(self, x: Tensor) -> Tensor:
        return x
