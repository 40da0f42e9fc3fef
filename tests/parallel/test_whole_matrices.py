"""Optimizers that need whole matrices: under tensor, pipeline and data parallelism they equal one process.

The one process is the engine with whole matrices on one rank; that its optimizers follow their rules is
tests/optim's affair. Conda's runs see all tokens: with few of them the gradients of the first layer have a null space,
where singular vectors are free, and two layouts drift apart as far as that freedom goes (losses by 1e-3 in 30 steps).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from parallel_runs import Trajectory, Trial, merged, on_a_rank
from processes import run_ranks

from optim.optimizer import OPTIMIZERS

OPTIMIZER_SETTINGS: dict[str, dict[str, Any]] = {
    "adamp": {"lr": 1e-3},
    "conda": {"lr": 2e-3, "refresh_interval": 7},
    "muon": {"lr": 2e-3},
    "sgdp": {"lr": 1e-2},
}
TRIAL_SETTINGS: dict[str, dict[str, Any]] = {"conda": {"steps": 30, "all_tokens": True}}
LAYOUTS: dict[str, dict[str, Any]] = {
    "tensor2-sequence": {"tensor": 2, "sequence": True},
    "data2-zero0": {"data": 2, "zero": 0},
    "data2-zero1": {"data": 2, "zero": 1},
    "tensor2-pipeline2-data2-zero1": {"tensor": 2, "pipeline": 2, "data": 2, "zero": 1},
}


def test_every_whole_matrix_optimizer_is_here() -> None:
    whole_matrix = {name for name in OPTIMIZERS.names() if not OPTIMIZERS[name].elementwise}
    assert OPTIMIZER_SETTINGS.keys() == whole_matrix


@cache
def run(name: str, layout: str) -> Trajectory:
    parallel = LAYOUTS.get(layout, {})
    optimizer = OPTIMIZERS.parse({"name": name, "clip_grad_norm": 0.5, **OPTIMIZER_SETTINGS[name]})
    ranks = parallel.get("tensor", 1) * parallel.get("pipeline", 1) * parallel.get("data", 1)
    trial = Trial(parallel=parallel, optimizer=optimizer, **TRIAL_SETTINGS.get(name, {}))
    return merged(run_ranks(ranks, on_a_rank, trial, timeout=240))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPTIMIZER_SETTINGS)
def test_the_same_run_in_any_layout(name: str, layout: str) -> None:
    found, wanted = run(name, layout), run(name, "one")
    assert found.losses == pytest.approx(wanted.losses, rel=1e-5)
    assert found.grad_norms == pytest.approx(wanted.grad_norms, rel=1e-4)
    for parameter, weight in wanted.weights.items():
        difference = (found.weights[parameter] - weight).norm() / weight.norm()
        assert difference <= 1e-4, f"{parameter} differs by {difference:.2e} of its norm"
