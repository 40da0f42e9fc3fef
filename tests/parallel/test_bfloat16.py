"""bfloat16 against the float32 run: forward and backward in bf16, masters, gradient sums and state in float32.

Bounds as measured, doubled: over 10 steps the loss stays within 1e-3 and the norm within 1.3e-2 of float32's, relative;
layouts agree with one process more closely than bf16 agrees with float32.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from parallel_runs import Trajectory, Trial, merged, on_a_rank, oracle
from processes import run_ranks

LAYOUTS: dict[str, dict[str, Any]] = {
    "tensor2-sequence": {"tensor": 2, "sequence": True},
    "pipeline2": {"pipeline": 2},
    "data2-zero1": {"data": 2, "zero": 1},
    "data2-zero2": {"data": 2, "zero": 2},
    "data2-zero3": {"data": 2, "zero": 3},
}


@cache
def float32() -> Trajectory:
    return oracle(Trial())


def run(**parallel: Any) -> Trajectory:
    ranks = parallel.get("tensor", 1) * parallel.get("pipeline", 1) * parallel.get("data", 1)
    trial = Trial(parallel=parallel, arithmetic={"precision": "bfloat16"})
    return merged(run_ranks(ranks, on_a_rank, trial, timeout=120))


def test_one_process() -> None:
    found = run()
    assert found.losses == pytest.approx(float32().losses, rel=1e-3)
    assert found.grad_norms == pytest.approx(float32().grad_norms, rel=1.3e-2)
    assert found.losses != float32().losses


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    found = run(**LAYOUTS[layout])
    assert found.losses == pytest.approx(float32().losses, rel=1e-3)
    assert found.grad_norms == pytest.approx(float32().grad_norms, rel=1.3e-2)
