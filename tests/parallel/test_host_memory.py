"""Host memory that a GPU copies is pinned: in lehr's engine by one function, in DeepSpeed's by its config."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from parallel_runs import Trial, allocated
from processes import run_ranks

from optim.transforms.base import RunPlan
from parallel.config import ParallelConfig
from parallel.engines.deepspeed_setup import deepspeed_config
from parallel.engines.engine import EngineInputs
from parallel.host_memory import host_empty, pins_memory
from parallel.mesh import make_mesh


def test_memory_is_pinned_for_a_gpu_only() -> None:
    assert pins_memory(torch.device("cuda", 1))
    assert not pins_memory(torch.device("cpu"))
    buffer = host_empty((3, 2), torch.device("cpu"), torch.bfloat16)
    assert (buffer.shape, buffer.dtype, buffer.device.type) == ((3, 2), torch.bfloat16, "cpu")
    assert not buffer.is_pinned()


def _pins_in_deepspeed(device: str) -> bool:
    mesh = dataclasses.replace(make_mesh(ParallelConfig(), timeout_seconds=60), device=torch.device(device))
    trial = Trial()
    inputs = EngineInputs(
        chunks=(), shards=(), mesh=mesh, optimizer=trial.optimizer, zero=2, offload=True, dtype=torch.bfloat16,
        micro_batches=1,
        plan=RunPlan(1, 1.0, {}),
    )  # fmt: skip
    return bool(deepspeed_config(inputs)["zero_optimization"]["offload_optimizer"]["pin_memory"])


@pytest.mark.parametrize(("device", "pins"), [("cpu", False), ("cuda", True)])
def test_deepspeed_pins_for_a_gpu_only(device: str, pins: bool) -> None:
    assert run_ranks(1, _pins_in_deepspeed, device) == [pins]


def _pinned_masters() -> bool:
    _, parts = allocated(Trial(parallel={"offload": "optimizer"}))
    masters = [part.tensor for name, part in parts.engine.state(saving=False).items() if name.startswith("model.")]
    return all(tensor.is_pinned() for tensor in masters)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_masters_on_the_host_are_pinned() -> None:
    assert run_ranks(1, _pinned_masters) == [True]
