"""A rank that compiles nothing does not import torch's compiler; and Megatron and DeepSpeed still would."""

from __future__ import annotations

import json
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


DECORATIONS = """
import json
import torch
import torch.distributed as dist

counts = {"importing megatron.core": 0, "deepspeed.initialize": 0}

def count(package):
    def compile(function=None, **options):
        counts[package] += 1
        return function if function is not None else lambda decorated: decorated
    torch.compile = compile

count("importing megatron.core")
import megatron.core
import deepspeed
from parallel.engines import deepspeed_engine
from parallel_runs import Trial, start
import contextlib

deepspeed_engine.without_torch_compile = contextlib.nullcontext
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
dist.init_process_group("gloo", rank=0, world_size=1, store=store)
count("deepspeed.initialize")
start(Trial(parallel={"zero": 2}))
print(json.dumps(counts))
"""


def output_of(code: str) -> str:
    """Returns what code prints in a new interpreter that can import the tests' modules."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_step_imports_no_compiler() -> None:
    found = [line for line in output_of(STEPS).splitlines() if line.startswith("imported")]
    assert found == ["imported in ZeRO 0 []", "imported in ZeRO 2 []"]


@pytest.mark.slow
def test_megatron_and_deepspeed_still_decorate_functions_with_torch_compile() -> None:
    """The packages still decorate at import. If this fails, the patch may not be needed any more."""
    found = json.loads(output_of(DECORATIONS).splitlines()[-1])
    for package, count in found.items():
        assert count > 0, f"{package} decorates no function: try to remove its use of patches/uncompiled.py"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++")
def test_a_model_can_still_be_compiled() -> None:
    """`compile` gives the same losses, and torch's compiler has compiled frames."""
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


def test_torch_compile_is_restored_afterwards() -> None:
    compiler = torch.compile
    with without_torch_compile():
        assert torch.compile(len) is len
        assert torch.compile(mode="default")(len) is len
    assert torch.compile is compiler
