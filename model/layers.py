"""The layers that the model is built from, without knowing how they are sharded.

`Layers` is the contract; `TorchLayers` are plain torch layers on one process (the oracle of every parity test).
`parallel` gives Megatron's layers, which shard matrices over the tensor ranks.

Shapes: T sequence, B batch, D hidden_size, O features of one output, V vocabulary;
lower-case t, o, i, v are one rank's shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from model.parameter import Gradient, ParamSpec, declare

COLUMN_WEIGHT = ParamSpec(init="normal", shard_dim=0)
COLUMN_BIAS = ParamSpec(init=0.0, shard_dim=0)
ROW_WEIGHT = ParamSpec(init="residual_output", shard_dim=1)
ROW_BIAS = ParamSpec(init=0.0)  # added after the sum over the tensor ranks
EMBEDDING_WEIGHT = ParamSpec(init="normal", shard_dim=0)


class Layers(Protocol):
    """Builds layers with declared parameters, and converts between a rank's shard of a tensor and the full one."""

    tp_size: int  # ranks over which heads, ffn features and vocabulary are sharded; 1: not sharded
    rank: int  # which shard is this rank's

    def column(self, in_size: int, out_size: int, *, bias: bool) -> nn.Module:
        """A linear map sharded over its outputs: `weight` [o, in], `bias` [o] or None. Called through `project`."""
        ...

    def project(self, x_tBD: Tensor, columns: Sequence[nn.Module]) -> tuple[Tensor, ...]:
        """[t, B, D] -> [T, B, o] for each column layer; the input enters the tensor-parallel region once for all."""
        ...

    def row(self, in_size: int, out_size: int, *, bias: bool) -> nn.Module:
        """A linear map sharded over its inputs: `weight` [out, i]; [T, B, i] -> [t, B, out], summed over the ranks.

        Its output is added to the residual stream, and its weight is initialised for that.
        """
        ...

    def embedding(self, vocab_size: int, hidden_size: int) -> nn.Module:
        """`weight` [v, D]; called with tokens [B, T] gives the full [T, B, D] on every rank."""
        ...

    def vector(
        self, size: int, *, init: float, sharded: bool = False, gradient: Gradient = "partial_along_sequence"
    ) -> nn.Parameter:
        """A parameter [size], or [size / tp_size] if sharded, for features that are sharded like a column's outputs.

        `gradient` is for one that is not sharded: `partial` if each rank applies it to its own features.
        """
        ...

    def scatter_sequence(self, x_TBD: Tensor) -> Tensor:
        """[T, B, D] -> [t, B, D]: under sequence parallelism this rank's part of the sequence, else x itself."""
        ...

    def enter(self, x_tBD: Tensor) -> Tensor:
        """[t, B, D] -> [T, B, D], the full sequence; backward sums the ranks' gradients. For a sharded output head."""
        ...

    def sum(self, x: Tensor) -> Tensor:
        """Returns the sum over the tensor ranks, without a gradient."""
        ...

    def max(self, x: Tensor) -> Tensor:
        """Returns the maximum over the tensor ranks, without a gradient."""
        ...


class Column(nn.Module):
    """Weight [out, in] and bias of one column of `TorchLayers`."""

    def __init__(self, in_size: int, out_size: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = declare(torch.empty(out_size, in_size), COLUMN_WEIGHT)
        self.bias = declare(torch.empty(out_size), COLUMN_BIAS) if bias else None


class Embedding(nn.Module):
    """Tokens [B, T] -> [T, B, D]."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = declare(torch.empty(vocab_size, hidden_size), EMBEDDING_WEIGHT)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return nn.functional.embedding(tokens_BT.transpose(0, 1), self.weight)


class TorchLayers:
    """Plain torch: every parameter in full, on one process."""

    tp_size = 1
    rank = 0

    def column(self, in_size: int, out_size: int, *, bias: bool) -> nn.Module:
        return Column(in_size, out_size, bias=bias)

    def project(self, x_tBD: Tensor, columns: Sequence[nn.Module]) -> tuple[Tensor, ...]:
        return tuple(nn.functional.linear(x_tBD, column.weight, column.bias) for column in columns)  # type: ignore[arg-type]

    def row(self, in_size: int, out_size: int, *, bias: bool) -> nn.Module:
        row = nn.Linear(in_size, out_size, bias=bias)
        declare(row.weight, ROW_WEIGHT)
        if bias:
            declare(row.bias, ROW_BIAS)
        return row

    def embedding(self, vocab_size: int, hidden_size: int) -> nn.Module:
        return Embedding(vocab_size, hidden_size)

    def vector(
        self, size: int, *, init: float, sharded: bool = False, gradient: Gradient = "partial_along_sequence"
    ) -> nn.Parameter:
        return declare(torch.empty(size), ParamSpec(init=init, shard_dim=0 if sharded else None, gradient=gradient))

    def scatter_sequence(self, x_TBD: Tensor) -> Tensor:
        return x_TBD

    def enter(self, x_tBD: Tensor) -> Tensor:
        return x_tBD

    def sum(self, x: Tensor) -> Tensor:
        return x

    def max(self, x: Tensor) -> Tensor:
        return x
