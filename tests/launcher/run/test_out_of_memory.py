"""A rank that is out of memory says what it held, what was estimated, and which settings need less."""

from __future__ import annotations

import errno
import re
import socket
from pathlib import Path

import pytest
import torch
from processes import lehr

from launcher.run.config import RunConfig
from launcher.run.estimate import estimate_step
from launcher.run.out_of_memory import is_out_of_memory, settings_that_need_less
from settings import compose

LARGE = ("model.vocab_size=50304", "model.hidden_size=1024", "model.num_layers=8", "train.seq_length=1024")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you "),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=repr,
)
def test_errors_of_memory_are_known(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(errno.ENOSPC, "No space left")], ids=repr)
def test_other_errors_are_none(error: Exception) -> None:
    assert not is_out_of_memory(error)


def savings(config: Path, *overrides: str, world_size: int = 1, on_gpu: bool = False) -> dict[str, int]:
    run = compose(RunConfig, config, [*LARGE, *overrides])
    found = settings_that_need_less(run, run.model, world_size=world_size, on_gpu=on_gpu)
    return {one.overrides: one.saved for one in found}


def test_each_setting_saves_the_difference_of_two_estimates(config: Path) -> None:
    found = savings(config, "train.micro_batch_size=4", on_gpu=True)
    assert list(found) == [
        "train.micro_batch_size=2",
        "train.recompute=selective",
        "train.recompute=full",
        "model.objective.chunk_tokens=128",
        "parallel.offload=optimizer",
        "parallel.tensor=2 parallel.data=1 on 2 ranks",
        "parallel.pipeline=2 parallel.data=1 on 2 ranks",
        "parallel.data=2 on 2 ranks",
        "train.precision=bfloat16",
    ]
    run = compose(RunConfig, config, [*LARGE, "train.micro_batch_size=4"])
    rank = estimate_step(run, run.model, world_size=1).rank
    assert found["parallel.offload=optimizer"] == rank.optimizer
    assert found["parallel.data=2 on 2 ranks"] == pytest.approx(rank.optimizer / 2)
    smaller = compose(RunConfig, config, [*LARGE, "train.micro_batch_size=2"])
    assert found["train.micro_batch_size=2"] == rank.total - estimate_step(smaller, run.model, world_size=1).rank.total
    assert found["model.objective.chunk_tokens=128"] == (512 - 128) * 50304 * 4


def test_layouts_that_cannot_be_are_not_offered(config: Path) -> None:
    found = savings(config, "parallel.data=4", "parallel.pipeline=2", world_size=8)
    assert "parallel.tensor=2 parallel.data=2" in found
    assert not any(setting.startswith("parallel.zero=") for setting in found)  # a pipeline has none above 1
    found = savings(config, "parallel.data=4", "parallel.zero=1", world_size=4)
    assert found["parallel.zero=3"] > 0
    assert "parallel.zero=2" not in found  # of a small model, the buffer that reduces gradients outweighs what it saves
    assert "parallel.offload=optimizer" not in found  # on a CPU it would change nothing


WITHOUT_MEMORY = """
import launcher.run.rank_main as rank_main
build_run = rank_main.build_run
def build(config, mesh, folder, **more):
    run = build_run(config, mesh, folder, **more)
    make_mask = run.make_mask
    def without_memory(documents):
        if run.state.step == 2 and mesh.rank == mesh.world_size - 1:
            HOW
        return make_mask(documents)
    run.make_mask = without_memory
    return run
rank_main.build_run = build
"""
RAISED = "import torch; raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')"
LIMITED = (
    "import psutil, resource; used = psutil.Process().memory_info().vms; "
    "resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "reason", "place", "ranks"),
    [
        (RAISED, "CUDA out of memory. Tried to allocate 2.00 GiB.", "micro_batches", 2),
        (LIMITED, "DefaultCPUAllocator: can't allocate memory: you tried to allocate", "model/", 1),
    ],
    ids=["raised", "limited"],
)
def test_a_run_without_memory_explains_itself(how: str, reason: str, place: str, ranks: int, config: Path) -> None:
    sizes = ["model.ffn_size=8192", "train.seq_length=512", "train.micro_batch_size=4", f"parallel.data={ranks}"]
    done = lehr("train", config, *sizes, before=WITHOUT_MEMORY.replace("HOW", how), timeout=200)
    assert done.returncode == 1
    where = rf"out of memory at step 3, micro-batch 1 of \d, in \S.*{place}"
    assert re.search(where, done.stderr), done.stderr
    assert f"rank {ranks - 1} (node {socket.gethostname()}, cpu)\n" in done.stderr
    assert reason in done.stderr
    for part in ("weights", "gradients", "optimizer state"):
        held, estimate = re.search(rf"{part} +(\S+ \S+) +(\S+ \S+)\n", done.stderr).groups()  # type: ignore[union-attr]
        assert float(held.split()[0]) == pytest.approx(float(estimate.split()[0]), rel=0.1), part
        assert held.split()[1] == estimate.split()[1]
    assert re.search(r"train\.micro_batch_size=2 saves \S+ MiB \(\d+%\)\n", done.stderr)
    assert "Traceback" not in done.stderr
