"""Every transform, in every layout: equal weights give equal masks, and ten steps give one process's run.

A transform that reads gradients is compared where weights do not move: gradients differ by rounding, so a few weights
change places at the border of what is pruned, and the runs part from there.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from parallel_runs import PARITY_LAYOUTS, Trajectory, Trial, all_on_a_rank, example, merged, ranks_of
from processes import run_ranks

from optim.transforms.base import TRANSFORMS

QUICK = ("one", "tensor2-data2-zero1")
LAYOUTS = (  # each kind of sharding of the parity list, alone or with another
    *QUICK,
    *("tensor2-sequence", "pipeline2-interleaved", "data2-zero0", "data2-zero1-offload", "data2-zero2-offload"),
    *("data2-zero3", "tensor2-data2-zero2", "tensor2-pipeline2-data2-zero1"),
)
EXAMPLES = {
    f"{name}-{number}": config
    for name in TRANSFORMS.names()
    for number, config in enumerate(TRANSFORMS[name].examples())
}
STILL, MOVING = 1e-30, 2e-3  # peak lr


def examples_of(parallel: dict[str, Any]) -> dict[str, Any]:
    """Returns the examples that a layout can have."""
    flat = parallel.get("zero", 1) >= 2
    return {name: config for name, config in EXAMPLES.items() if not (flat and config.needs_full_matrices())}


def trials(parallel: dict[str, Any]) -> dict[str, Trial]:
    """Returns a run whose weights do not move, and one whose weights do, for each example; and one of Conda."""
    runs = [
        (f"{name}, lr {lr}", "adamw", lr, config)
        for name, config in examples_of(parallel).items()
        for lr in ((STILL,) if config.reads_gradients() else (STILL, MOVING))
    ]
    if parallel.get("zero", 1) < 2:
        runs.append(("conda", "conda", MOVING, EXAMPLES["sparsity-0"]))
    found = {
        run: Trial(
            parallel=parallel,
            optimizer=example(name, lr=lr, clip_grad_norm=0.5, transforms=[config.to_plain()]),
            all_tokens=True,
        )
        for run, name, lr, config in runs
    }
    found["bfloat16"] = replace(next(iter(found.values())), compute={"precision": "bfloat16"})
    return found


@cache
def runs_of(layout: str) -> dict[str, Trajectory]:
    parallel = PARITY_LAYOUTS[layout]
    by_rank = run_ranks(ranks_of(parallel), all_on_a_rank, trials(parallel), timeout=600)
    return {name: merged([rank[name] for rank in by_rank]) for name in by_rank[0]}


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in LAYOUTS]
)
def test_masks_and_runs_are_those_of_one_process(layout: str) -> None:
    expected = runs_of("one")
    for name, run in runs_of(layout).items():
        one = expected[name]
        assert run.weights.keys() == one.weights.keys()
        rounding = 1000 if name == "bfloat16" else 1
        assert run.losses == pytest.approx(one.losses, rel=1e-5 * rounding)
        assert run.grad_norms == pytest.approx(one.grad_norms, rel=1e-4 * rounding)
        assert run.diagnostics == pytest.approx(one.diagnostics, abs=1e-3)
        pruned = sum(int((weight == 0).sum()) for weight in run.weights.values())
        assert pruned == sum(int((weight == 0).sum()) for weight in one.weights.values())
        if str(STILL) in name or name == "bfloat16":  # whose masters do not move either
            for parameter, weight in run.weights.items():
                assert torch.equal(weight == 0, one.weights[parameter] == 0), (name, parameter)
