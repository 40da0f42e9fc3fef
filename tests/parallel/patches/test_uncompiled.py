"""torch's compiler stays out of a rank that compiles nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parallel_runs import Trial, on_a_rank
from processes import run_ranks

from parallel.patches.uncompiled import without_torch_compile

TESTS = Path(__file__).resolve().parents[2]
STEPS = """
import sys
import torch.distributed as dist
from parallel_runs import Trial, start, on_a_rank

store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
dist.init_process_group("gloo", rank=0, world_size=1, store=store)
mesh = None
for zero in (0, 2):
    trial = Trial(parallel={"zero": zero}, steps=1)
    mesh = mesh or start(trial)[0]
    on_a_rank(trial, mesh)
    print("imported in ZeRO", zero, sorted({"torch._dynamo", "torch._inductor"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_a_step_imports_no_compiler() -> None:
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-W", "ignore", "-c", STEPS]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("imported")]
    assert found == ["imported in ZeRO 0 []", "imported in ZeRO 2 []"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++")
def test_what_is_to_be_compiled_is() -> None:
    """The same losses; and torch's compiler has done it."""
    trial = Trial(model={"num_layers": 1}, parallel={"zero": 2}, steps=3)
    (plain,) = run_ranks(1, on_a_rank, trial)
    compiled = replace(trial, compute={"compile": True})
    ((losses, frames),) = run_ranks(1, losses_and_compiled_frames, compiled, timeout=240)
    assert frames > 0
    assert losses == pytest.approx(plain.losses, rel=1e-5)


def losses_and_compiled_frames(trial: Trial) -> tuple[list[float], int]:
    losses = on_a_rank(trial).losses
    from torch._dynamo.utils import counters

    return losses, counters["frames"]["ok"]


def test_torch_compile_is_itself_again_afterwards() -> None:
    compiler = torch.compile
    with without_torch_compile():
        assert torch.compile(len) is len
        assert torch.compile(mode="default")(len) is len
    assert torch.compile is compiler
