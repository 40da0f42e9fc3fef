"""Conda on tensor ranks: equal to one process, one decomposition per matrix, no needless collective."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import optim_cases as cases
import optim_oracles as oracles
import pytest
import torch
from optim_cases import Case
from processes import run_ranks
from torch import Tensor

from optim.conda import CondaConfig
from optim.parameters import TensorRanks


def config_of(**values: Any) -> CondaConfig:
    return CondaConfig.model_validate({"lr": 0.01, **values})


SHARDED = {
    "layers.0.tall_column.weight": Case((20, 8), 0),
    "layers.0.tall_row.weight": Case((20, 8), 1),
    "layers.0.wide_column.weight": Case((8, 20), 0),
    "layers.0.wide_row.weight": Case((8, 20), 1),
    "layers.0.square_column.weight": Case((8, 8), 0),
    "layers.0.square_row.weight": Case((8, 8), 1),
    "layers.0.turns_tall.weight": Case((6, 10), 1),  # wide, but its shards are tall
    "layers.0.uneven_tall.weight": Case((9, 4), 1),
    "layers.0.uneven_wide.weight": Case((4, 9), 0),
    "layers.1.tall_row.weight": Case((20, 8), 1),
    "layers.2.tall_row.weight": Case((20, 8), 1),
}


def _run_on_a_rank(dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, int | None]]]:
    ranks = cases.process_ranks()
    config = config_of(refresh_interval=7, weight_decay=0.1)
    params, optimizer = cases.trained(config, SHARDED, 30, lr=0.01, dtype=dtype, ranks=ranks)
    weights = {param.name: ranks.gather(param.weight, SHARDED[param.name].dim or 0) for param in params}
    return weights, {key: (value.tensor, value.dim) for key, value in optimizer.state().items()}


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_two_tensor_ranks_equal_full_matrices_for_every_sharding(dtype: torch.dtype, bound: float) -> None:
    (weights, state), (other, other_state) = run_ranks(2, _run_on_a_rank, dtype)
    rule = oracles.conda(b1=0.9, b2=0.99, eps=1e-8, scale=0.25, interval=7, weight_decay=0.1)
    for name, start in cases.weights(SHARDED, dtype=dtype).items():
        grads = [cases.gradients(SHARDED, step, dtype)[name] for step in range(30)]
        assert cases.relative(weights[name], rule(start, grads, 0.01)) < bound, name
        assert torch.equal(weights[name], other[name])
        assert torch.equal(state[f"{name}.basis"][0], other_state[f"{name}.basis"][0])  # to the bit
    # The moments are sharded along the dim that is not rotated, and full only if two ranks do not divide that dim.
    moment_dims = {name.split(".")[2]: state[f"{name}.rotated_exp_avg"][1] for name in SHARDED}
    assert moment_dims == {
        "tall_column": 0, "tall_row": 0, "wide_column": 1, "wide_row": 1, "square_column": 0, "square_row": 0,
        "turns_tall": 1, "uneven_tall": None, "uneven_wide": None,
    }  # fmt: skip


@dataclass
class Counting:
    """TensorRanks that count their collectives by kind."""

    ranks: TensorRanks
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def tp_size(self) -> int:
        return self.ranks.tp_size

    @property
    def rank(self) -> int:
        return self.ranks.rank

    def sum(self, x: Tensor) -> Tensor:
        self.calls["sum"] += 1
        return self.ranks.sum(x)

    def gather(self, x: Tensor, dim: int) -> Tensor:
        self.calls["gather"] += 1
        return self.ranks.gather(x, dim)

    def reshard(self, x: Tensor, *, have: int, want: int) -> Tensor:
        self.calls["reshard"] += 1
        return self.ranks.reshard(x, have=have, want=want)


LOCAL = {
    "layers.0.tall.weight": Case((20, 8), 0),
    "layers.1.tall.weight": Case((20, 8), 0),
    "layers.2.tall.weight": Case((20, 8), 0),
    "layers.0.wide.weight": Case((8, 20), 1),
    "layers.0.replicated.weight": Case((12, 8), None),
}
RESHARDED = {"layers.0.tall.weight": Case((20, 8), 1), "layers.1.tall.weight": Case((20, 8), 1)}


def _collectives(names: dict[str, Case]) -> list[tuple[int, dict[str, int]]]:
    """Returns, for each of 8 steps, the number of matrices decomposed on this rank, and the collectives."""
    ranks = Counting(cases.process_ranks())
    decomposed = 0
    eigh = torch.linalg.eigh

    def counted(x: Tensor) -> Any:
        nonlocal decomposed
        decomposed += len(x)
        return eigh(x)

    torch.linalg.eigh = counted
    params = cases.params_of(names, cases.weights(names), ranks)
    optimizer = config_of(refresh_interval=4).build(params, ranks)
    found = []
    for step in range(8):
        decomposed = 0
        ranks.calls.clear()
        cases.take_steps(optimizer, params, names, [step], lr=0.01, ranks=ranks)
        found.append((decomposed, dict(ranks.calls)))
    return found


def test_each_matrix_is_decomposed_by_one_rank_once_per_interval() -> None:
    by_rank = run_ranks(2, _collectives, LOCAL)
    counts = [sum(rank[step][0] for rank in by_rank) for step in range(8)]
    assert counts == [len(LOCAL), 0, 0, 0, len(LOCAL), 0, 0, 0]
    assert all(rank[0][0] < len(LOCAL) for rank in by_rank)  # not all by the same rank


def test_between_refreshes_a_rotation_is_local_or_takes_one_reshard_each_way() -> None:
    for rank in run_ranks(2, _collectives, LOCAL):
        # Two buckets of sharded matrices sum their Gram matrices; all three distribute their decompositions.
        assert [calls for _, calls in rank] == [{"sum": 2, "gather": 3}, {}, {}, {}] * 2
    for rank in run_ranks(2, _collectives, RESHARDED):
        assert [calls for _, calls in rank] == [{"reshard": 2, "sum": 1, "gather": 1}, *[{"reshard": 2}] * 3] * 2
