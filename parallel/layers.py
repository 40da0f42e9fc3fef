"""Megatron's tensor-parallel layers behind the model's `Layers` contract.

Columns that share an input (q, k, v; gate, up) are separate parameters and one matrix product (parallel/projection.py),
so the input enters the tensor-parallel region once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import parallel.patches.before_megatron  # noqa: F401

# isort: split
from megatron.core import tensor_parallel
from megatron.core.tensor_parallel.layers import linear_with_grad_accumulation_and_async_allreduce
from megatron.core.transformer import TransformerConfig

from model.layers import COLUMN_BIAS, COLUMN_WEIGHT, EMBEDDING_WEIGHT, ROW_BIAS, ROW_WEIGHT
from model.parameter import Gradient, ParamSpec, declare
from parallel.mesh import Axis
from parallel.projection import project

# Without CUDA there are no queues to order: Megatron's warning about CUDA_DEVICE_MAX_CONNECTIONS does not apply.
linear_with_grad_accumulation_and_async_allreduce.warned = not torch.cuda.is_available()


class _Row(tensor_parallel.RowParallelLinear):  # type: ignore[misc]
    def forward(self, x_TBi: Tensor) -> Tensor:
        out_tBD: Tensor = super().forward(x_TBi)[0]
        return out_tBD


class _Embedding(tensor_parallel.VocabParallelEmbedding):  # type: ignore[misc]
    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_TBD: Tensor = super().forward(tokens_BT.transpose(0, 1).contiguous())
        return x_TBD


class MegatronLayers:
    """Matrices sharded over the tensor axis; with `sequence`, the residual stream is sharded along the sequence."""

    def __init__(self, config: TransformerConfig, axis: Axis) -> None:
        self.tp_size = axis.size
        self.rank = axis.rank
        self._config = config
        self._sequence = bool(config.sequence_parallel)
        self._group = axis.group

    def column(self, in_size: int, out_size: int, *, bias: bool) -> nn.Module:
        column = tensor_parallel.ColumnParallelLinear(
            in_size, out_size, bias=bias, gather_output=False, **self._options()
        )
        return _declared(column, weight=COLUMN_WEIGHT, bias=COLUMN_BIAS)

    def project(self, x_tBD: Tensor, columns: Sequence[nn.Module]) -> tuple[Tensor, ...]:
        weights: list[Tensor] = [column.weight for column in columns]  # type: ignore[misc]
        biases: list[Tensor] = [column.bias for column in columns if column.bias is not None]  # type: ignore[misc]
        out_TBO = project(x_tBD, weights, biases, sequence=self._sequence, group=self._group)
        return tuple(torch.split(out_TBO, [weight.shape[0] for weight in weights], dim=-1))

    def row(self, in_size: int, out_size: int, *, bias: bool) -> nn.Module:
        row = _Row(in_size, out_size, bias=bias, input_is_parallel=True, skip_bias_add=False, **self._options())
        return _declared(row, weight=ROW_WEIGHT, bias=ROW_BIAS)

    def embedding(self, vocab_size: int, hidden_size: int) -> nn.Module:
        return _declared(_Embedding(vocab_size, hidden_size, **self._options()), weight=EMBEDDING_WEIGHT)

    def vector(
        self, size: int, *, init: float, sharded: bool = False, gradient: Gradient = "partial_along_sequence"
    ) -> nn.Parameter:
        if not sharded:
            return declare(torch.empty(size), ParamSpec(init=init, gradient=gradient))
        assert size % self.tp_size == 0, f"a vector of {size} cannot be sharded over {self.tp_size} ranks"
        return _mark(declare(torch.empty(size // self.tp_size), ParamSpec(init=init, shard_dim=0)), 0)

    def scatter_sequence(self, x_TBD: Tensor) -> Tensor:
        if not self._sequence:
            return x_TBD
        x_tBD: Tensor = tensor_parallel.scatter_to_sequence_parallel_region(x_TBD, group=self._group)
        return x_tBD

    def enter(self, x_tBD: Tensor) -> Tensor:
        x_TBD: Tensor
        if self._sequence:
            x_TBD = tensor_parallel.gather_from_sequence_parallel_region(x_tBD, group=self._group)
        else:
            x_TBD = tensor_parallel.copy_to_tensor_model_parallel_region(x_tBD, group=self._group)
        return x_TBD

    def sum(self, x: Tensor) -> Tensor:
        total = x.detach().clone()
        dist.all_reduce(total, group=self._group)
        return total

    def max(self, x: Tensor) -> Tensor:
        largest = x.detach().clone()
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._group)
        return largest

    def _options(self) -> dict[str, Any]:
        return {"config": self._config, "init_method": _leave, "tp_group": self._group}


def _declared(module: nn.Module, **specs: ParamSpec) -> nn.Module:
    for name, spec in specs.items():
        parameter = getattr(module, name)
        if parameter is not None:
            _mark(declare(parameter, spec), spec.shard_dim)
    return module


def _mark(parameter: nn.Parameter, shard_dim: int | None) -> nn.Parameter:
    """Attaches what Megatron and DeepSpeed read of a sharded parameter."""
    if shard_dim is not None:
        parameter.tensor_model_parallel = True  # type: ignore[attr-defined]
        parameter.partition_dim = shard_dim  # type: ignore[attr-defined]
    return parameter


def _leave(weight: Tensor) -> None:
    """Leaves the weight as it is: model.init draws full parameters by their global names, Megatron does not."""
