"""Sums of gradients in batches, against sums of each gradient by itself; and the flat runs that AdamW updates."""

from __future__ import annotations

import itertools

import pytest
import torch
from parallel_runs import Trial, global_batches, local_micro_batches, start
from processes import run_ranks
from torch import Tensor, nn

from parallel.engines import gradient_accumulation
from parallel.engines.gradient_accumulation import GradientAccumulation

CPU = torch.device("cpu")
SIZES = (3, 40, 5, 8, 200, 7)
BATCH_BYTES = [0, 48, 1 << 20]  # one by one as on a CPU; some in batches, some alone; all of a micro-batch at once


def build(
    batch_bytes: int, dtype: torch.dtype, device: torch.device = CPU
) -> tuple[GradientAccumulation, list[nn.Parameter], Tensor]:
    accumulation = GradientAccumulation(device)
    accumulation._batch_bytes = batch_bytes
    flat = torch.full((sum(SIZES),), 7.0, device=device)  # what the step before has left
    parameters = [nn.Parameter(torch.ones(size, dtype=dtype, device=device)) for size in SIZES]
    for parameter, total in zip(parameters, flat.split(SIZES), strict=True):
        accumulation.register(parameter, total)
    return accumulation, parameters, flat


def pulls(micro_batch: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(micro_batch)
    return [torch.randn(size, generator=generator).to(dtype) for size in SIZES]


def go_backward(parameters: list[nn.Parameter], gradients: list[Tensor]) -> None:
    sum((p * g).sum() for p, g in zip(parameters, gradients, strict=True)).backward()  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch_bytes", BATCH_BYTES)
def test_sums_have_the_bits_of_one_addition_each(batch_bytes: int, dtype: torch.dtype) -> None:
    accumulation, parameters, flat = build(batch_bytes, dtype)
    for _ in range(2):
        accumulation.begin_step()
        wanted = torch.zeros_like(flat)
        for micro_batch in range(3):
            gradients = pulls(micro_batch, dtype)
            go_backward(parameters, gradients)
            wanted += torch.cat(gradients).float()
        accumulation.end_step()
        assert torch.equal(flat, wanted)
        if batch_bytes or dtype == torch.bfloat16:
            assert all(parameter.grad is None for parameter in parameters)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("batch_bytes", BATCH_BYTES)
def test_a_gpu_has_the_sums_of_a_cpu(batch_bytes: int) -> None:
    device = torch.device("cuda", 0)
    accumulation, parameters, flat = build(batch_bytes, torch.bfloat16, device)
    accumulation.begin_step()
    for micro_batch in range(3):
        go_backward(parameters, [each.to(device) for each in pulls(micro_batch, torch.bfloat16)])
    accumulation.end_step()
    first, *further = [torch.cat(pulls(micro_batch, torch.bfloat16)).float() for micro_batch in range(3)]
    assert torch.equal(flat.cpu(), first + further[0] + further[1])


@pytest.mark.parametrize("batch_bytes", BATCH_BYTES)
def test_a_parameter_without_a_gradient_has_a_sum_of_zero(batch_bytes: int) -> None:
    accumulation, parameters, flat = build(batch_bytes, torch.float32)
    accumulation.begin_step()
    go_backward(parameters[:2], pulls(0, torch.float32)[:2])
    accumulation.end_step()
    assert torch.equal(flat, torch.cat([*pulls(0, torch.float32)[:2], torch.zeros(sum(SIZES[2:]))]))


@pytest.mark.parametrize("batch_bytes", BATCH_BYTES)
def test_a_step_that_was_dropped_leaves_nothing(batch_bytes: int) -> None:
    accumulation, parameters, flat = build(batch_bytes, torch.float32)
    accumulation.begin_step()
    go_backward(parameters, pulls(5, torch.float32))
    accumulation.begin_step()  # the step was dropped after its first micro-batch
    go_backward(parameters, pulls(0, torch.float32))
    accumulation.end_step()
    assert torch.equal(flat, torch.cat(pulls(0, torch.float32)))


def trained(trial: Trial, batch_bytes: int) -> dict[str, Tensor]:
    """Returns the weights and the moments after two steps, with the batches of a GPU."""
    gradient_accumulation.batch_bytes = lambda device: batch_bytes
    mesh, parts = start(trial)
    engine = parts.engine
    for batch in itertools.islice(global_batches(), 2):
        engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=1e-3)
    return {key: part.tensor.clone() for key, part in engine.state(saving=False).items()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("parallel", [{"data": 2}, {"pipeline": 2}], ids=str)
def test_batches_change_no_bit_of_a_run(parallel: dict[str, int], precision: str) -> None:
    trial = Trial(parallel=parallel, compute={"precision": precision}, micro_batch_size=2)
    one_by_one, in_batches = (run_ranks(2, trained, trial, size, timeout=120) for size in (0, 4096))
    for mine, theirs in zip(one_by_one, in_batches, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
