"""Every process group of a run has the config's timeout."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from parallel_runs import Trial
from processes import run_ranks

from parallel.build import ComputeConfig, build
from parallel.config import ParallelConfig
from parallel.mesh import make_mesh

SECONDS = 43.0


def timeouts_on_a_rank(parallel: dict[str, Any]) -> dict[str, timedelta]:
    trial = Trial(parallel=parallel)
    before = set(dist.distributed_c10d._world.pg_map)
    mesh = make_mesh(ParallelConfig(**parallel), timeout_seconds=SECONDS)
    build(
        trial.model_config(),
        ParallelConfig(**parallel),
        trial.optimizer,
        mesh,
        compute=ComputeConfig(),
        seq_length=32,
        micro_batches=1,
        seed=0,
        total_steps=1,
    )
    made = set(dist.distributed_c10d._world.pg_map) - before
    return {group.group_desc: group._get_backend(torch.device("cpu")).options._timeout for group in made}


@pytest.mark.parametrize(
    ("ranks", "parallel", "axes"),
    [
        (4, {"tensor": 2, "sequence": True}, {"tensor", "data", "pipeline"}),
        (4, {"pipeline": 2}, {"tensor", "data", "pipeline"}),
        (2, {"data": 2, "zero": 1}, {"tensor"}),  # the data group is that of all ranks, the others are of one rank each
        (2, {"data": 2, "zero": 2}, {"tensor"}),
        (2, {"data": 2, "zero": 3}, {"tensor"}),
    ],
)
def test_every_group_of_a_layout(ranks: int, parallel: dict[str, Any], axes: set[str]) -> None:
    for found in run_ranks(ranks, timeouts_on_a_rank, parallel):
        assert set(found) >= axes
        assert set(found.values()) == {timedelta(seconds=SECONDS)}
