"""Parameters for the tests: every kind of sharding that a small transformer has under tensor parallelism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optim.optimizer import Optimizer, OptimizerConfig
from optim.parameters import OneRank, Param, TensorRanks


@dataclass(frozen=True)
class Case:
    shape: tuple[int, ...]
    dim: int | None  # sharded by tensor parallelism; None: each tensor rank has the full parameter


MODEL: dict[str, Case] = {
    "embedding.weight": Case((24, 8), 0),
    "layers.0.attention_norm.weight": Case((8,), None),
    "layers.0.attention.q.weight": Case((8, 8), 0),
    "layers.0.attention.q.bias": Case((8,), 0),
    "layers.0.attention.k.weight": Case((4, 8), 0),  # wide, but sharded like a tall one
    "layers.0.attention.v.weight": Case((4, 8), 0),
    "layers.0.attention.out.weight": Case((8, 8), 1),
    "layers.0.mlp.gate.weight": Case((20, 8), 0),
    "layers.0.mlp.up.weight": Case((20, 8), 0),
    "layers.0.mlp.down.weight": Case((8, 20), 1),
    "layers.1.attention.q.weight": Case((8, 8), 0),
    "layers.1.attention.out.weight": Case((8, 8), 1),
    "layers.1.mlp.up.weight": Case((20, 8), 0),
    "layers.1.mlp.narrow.weight": Case((9, 4), 1),  # nine rows, which two ranks do not divide
    "layers.1.mlp.full.weight": Case((12, 8), None),
    "final_norm.weight": Case((8,), None),
    "head.weight": Case((24, 8), 0),
}


def shapes(cases: Mapping[str, Case] = MODEL) -> dict[str, tuple[int, ...]]:
    return {name: case.shape for name, case in cases.items()}


def weights(cases: Mapping[str, Case], *, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(case.shape, generator=generator, dtype=dtype) for name, case in cases.items()}


def gradients(cases: Mapping[str, Case], step: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return weights(cases, seed=1000 + step, dtype=dtype)


def shard_of(x: Tensor, dim: int | None, ranks: TensorRanks) -> Tensor:
    return x.clone() if dim is None else x.chunk(ranks.tp_size, dim)[ranks.rank].clone()


def params_of(cases: Mapping[str, Case], values: Mapping[str, Tensor], ranks: TensorRanks | None = None) -> list[Param]:
    ranks = ranks or OneRank()
    return [
        Param(name, shard_of(values[name], case.dim, ranks), case.shape, case.dim if ranks.tp_size > 1 else None)
        for name, case in cases.items()
    ]


def take_steps(
    optimizer: Optimizer,
    params: Sequence[Param],
    cases: Mapping[str, Case],
    steps: Sequence[int],
    *,
    lr: float,
    ranks: TensorRanks | None = None,
) -> None:
    ranks = ranks or OneRank()
    for step in steps:
        grads = gradients(cases, step, params[0].weight.dtype)
        for param in params:
            param.grad = shard_of(grads[param.name], cases[param.name].dim, ranks)
        optimizer.step(lr=lr)


def trained(
    config: OptimizerConfig,
    cases: Mapping[str, Case],
    steps: int,
    *,
    lr: float,
    dtype: torch.dtype = torch.float32,
    ranks: TensorRanks | None = None,
) -> tuple[list[Param], Optimizer]:
    """Returns the parameters after some steps on random gradients, and their optimizer."""
    ranks = ranks or OneRank()
    params = params_of(cases, weights(cases, dtype=dtype), ranks)
    optimizer = config.build(params, ranks)
    take_steps(optimizer, params, cases, range(steps), lr=lr, ranks=ranks)
    return params, optimizer


def process_ranks() -> TensorRanks:
    """Returns the ranks of the default process group as tensor ranks."""
    import torch.distributed as dist

    from parallel.engines.tensor_ranks import TensorAxisRanks
    from parallel.mesh import Axis  # here, since it imports Megatron: seconds that only rank processes have spent

    assert dist.group.WORLD is not None
    return TensorAxisRanks(Axis(dist.get_world_size(), dist.get_rank(), dist.group.WORLD))


def relative(x: Tensor, reference: Tensor) -> float:
    """Returns |x - reference| / |reference|."""
    return float((x - reference).norm() / reference.norm())
