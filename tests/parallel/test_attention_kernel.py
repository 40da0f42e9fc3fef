"""One attention kernel for all ranks of a run: rank 0 chooses it, and the run keeps it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from parallel_runs import Trial
from processes import run_ranks

from parallel.attention_kernel import agree_on_kernel
from parallel.config import ParallelConfig
from parallel.mesh import make_mesh

CASES = (
    ("auto", None, torch.float32),
    ("auto", "sdpa", torch.float32),
    ("sdpa", "blocked", torch.float32),
    ("auto", "flash3", torch.float32),
    ("auto", "blocked", torch.bfloat16),
    ("auto", "of a later release", torch.bfloat16),
)


def kernels() -> list[tuple[str, str | None]]:
    mesh = make_mesh(ParallelConfig(data=2), timeout_seconds=60)
    model = Trial().model_config()
    # Only rank 0 knows the record.
    return [
        agree_on_kernel(wanted, model, mesh, dtype=dtype, recorded=recorded if dist.get_rank() == 0 else "sdpa")  # type: ignore[arg-type]
        for wanted, recorded, dtype in CASES
    ]


def test_auto_keeps_the_kernel_of_the_run_where_it_can_be_used() -> None:
    first, second = run_ranks(2, kernels)
    assert first == second
    assert [kernel for kernel, _ in first] == ["blocked", "sdpa", "sdpa", "blocked", "blocked", "sdpa"]
    warnings = [warning for _, warning in first if warning is not None]
    assert warnings == [
        "the run has used the attention kernel flash3 until now, which cannot be used here: it needs a CUDA device, "
        "and the model is on cpu; it goes on with blocked, which rounds differently"
    ]
