"""One way to compute for all ranks of a run: rank 0 chooses the kernels, and the run keeps them."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from parallel_runs import Trial
from processes import run_ranks

from parallel.build import ComputeConfig
from parallel.compiled_check import RunShapes
from parallel.compute_choice import agree_on_compute, choices_of
from parallel.config import ParallelConfig
from parallel.mesh import make_mesh
from settings import UserError

CASES: tuple[tuple[ComputeConfig, dict[str, Any]], ...] = (
    (ComputeConfig("float32"), {}),
    (ComputeConfig("float32", compile="auto"), {"attention_kernel": "sdpa"}),
    (ComputeConfig("float32", "sdpa"), {"attention_kernel": "blocked"}),
    (ComputeConfig("float32"), {"attention_kernel": "flash3", "cross_entropy_kernel": "torch", "compiled": False}),
    (ComputeConfig("bfloat16"), {"attention_kernel": "blocked", "cross_entropy_kernel": "triton"}),
    (ComputeConfig("bfloat16"), {"attention_kernel": "of a later release", "compiled": "maybe"}),
)


def choices() -> tuple[list[tuple[dict[str, Any], list[str]]], str]:
    parallel = ParallelConfig(data=2)
    mesh = make_mesh(parallel, timeout_seconds=60)
    shapes = RunShapes(Trial().model_config(), parallel, 32, 2)
    found = []
    for wanted, recorded in CASES:
        # Only rank 0 knows the record.
        known = recorded if dist.get_rank() == 0 else {"attention_kernel": "sdpa"}
        compute, warnings = agree_on_compute(wanted, shapes, mesh, recorded=known)
        found.append((choices_of(compute), warnings))
    try:
        agree_on_compute(ComputeConfig(cross_entropy="triton"), shapes, mesh, recorded={})
    except UserError as error:
        return found, str(error)
    return found, ""


def test_auto_keeps_what_the_run_began_with_where_it_can_be_used() -> None:
    first, second = run_ranks(2, choices)
    assert first == second
    found, refused = first
    kernels = [choice["attention_kernel"] for choice, _ in found]
    assert kernels == ["blocked", "sdpa", "sdpa", "blocked", "blocked", "sdpa"]
    assert all(choice["cross_entropy_kernel"] == "torch" and choice["compiled"] is False for choice, _ in found)
    end = "which cannot be used here: it needs a CUDA device, and the model is on cpu; it goes on with"
    assert [warning for _, warnings in found for warning in warnings] == [
        f"the run has used the attention kernel flash3 until now, {end} blocked, which rounds differently",
        f"the run has used the cross-entropy kernel triton until now, {end} torch, which rounds differently",
    ]
    assert refused == (
        "train.cross_entropy = triton cannot be used: it needs a CUDA device, and the model is on cpu; or set "
        "train.cross_entropy to auto"
    )
