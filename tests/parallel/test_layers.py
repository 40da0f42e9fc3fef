"""Megatron's layers keep for the backward pass what plain torch's keep: activations, and no copies of weights."""

from __future__ import annotations

from live_memory import LiveMemory
from parallel_runs import Trial, global_batches, local_micro_batches, start
from processes import run_ranks

from parallel.config import ParallelConfig
from parallel.mesh import make_mesh

RECOMPUTE = ("none", "selective", "full")
MODEL = {"num_layers": 2, "hidden_size": 128, "ffn_size": 256, "num_kv_heads": 4}


def _kept(tensor: int) -> list[int]:
    """Bytes that a forward pass over one row keeps, by recompute."""
    mesh = make_mesh(ParallelConfig(tensor=tensor), timeout_seconds=60)
    found = []
    for recompute in RECOMPUTE:
        trial = Trial(model=MODEL, parallel={"tensor": tensor}, arithmetic={"recompute": recompute}, micro_batch_size=1)
        _, parts = start(trial, mesh)
        (stage,) = parts.stages
        batch = local_micro_batches(next(global_batches()), trial, mesh, parts)[0]
        with LiveMemory() as memory:
            loss, _ = stage(batch)
        found.append(memory.alive())
        loss.backward()
    return found


def test_no_copies_of_weights_are_kept() -> None:
    """Each of two ranks has half the weights; one row's activations are less than that."""
    (whole,) = run_ranks(1, _kept, 1)
    for cut in run_ranks(2, _kept, 2):
        assert all(here < there for here, there in zip(cut, whole, strict=True)), (cut, whole)
