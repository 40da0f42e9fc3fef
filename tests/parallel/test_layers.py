"""Columns with one input are Megatron's linear map to the bit, and keep no copies of weights for the backward pass."""

from __future__ import annotations

import pytest
import torch
from live_memory import LiveMemory
from megatron.core import parallel_state
from megatron.core.tensor_parallel.layers import linear_with_grad_accumulation_and_async_allreduce
from parallel_runs import Trial, global_batches, local_micro_batches, start
from processes import run_ranks
from torch import Tensor, nn

from model.config import ModelConfig
from parallel.chunk import megatron_config
from parallel.compute_timer import ComputeTimer
from parallel.config import ParallelConfig
from parallel.layers import MegatronLayers
from parallel.mesh import make_mesh
from parallel.projection import joined

RECOMPUTE = ("none", "selective", "full")
MODEL = {"num_layers": 2, "hidden_size": 128, "ffn_size": 256, "num_kv_heads": 4}


def _kept(tensor: int) -> list[int]:
    """Returns the bytes that a forward pass over one row keeps, by `recompute`."""
    mesh = make_mesh(ParallelConfig(tensor=tensor), timeout_seconds=60)
    found = []
    for recompute in RECOMPUTE:
        trial = Trial(model=MODEL, parallel={"tensor": tensor}, compute={"recompute": recompute}, micro_batch_size=1)
        _, parts = start(trial, mesh)
        (chunk,) = parts.chunks
        batch = local_micro_batches(next(global_batches()), trial, mesh, parts)[0]
        with LiveMemory() as memory:
            loss, _ = chunk(batch)
        found.append(memory.alive())
        loss.backward()
    return found


@pytest.mark.slow
def test_no_copies_of_weights_are_kept() -> None:
    """Each of two ranks has half the weights; one row's activations are less than that."""
    (full,) = run_ranks(1, _kept, 1)
    for sharded in run_ranks(2, _kept, 2):
        assert all(here < there for here, there in zip(sharded, full, strict=True)), (sharded, full)


def _both(sequence: bool, bias: bool, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Returns outputs and gradients of three columns, as lehr and as Megatron's public function compute them."""
    parallel = ParallelConfig(tensor=2, sequence=sequence)
    mesh = make_mesh(parallel, timeout_seconds=60)
    model = ModelConfig(num_layers=1, hidden_size=32, num_heads=4, ffn_size=48)
    layers = MegatronLayers(megatron_config(model, parallel, dtype, ComputeTimer(mesh.device)), mesh.tensor)
    generator = torch.Generator().manual_seed(mesh.rank)
    columns = [layers.column(32, size, bias=bias).to(dtype) for size in (32, 16, 16)]
    with torch.no_grad():
        for parameter in nn.ModuleList(columns).parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    shared = generator if sequence else torch.Generator().manual_seed(9)  # without it, all ranks have one x
    x_tBD = torch.randn(6, 2, 32, generator=shared).to(dtype).requires_grad_()
    out_TBO = torch.cat(layers.project(x_tBD, columns), -1)
    pull_TBO = torch.randn(out_TBO.shape, generator=generator).to(dtype)
    inputs = [x_tBD, *nn.ModuleList(columns).parameters()]
    ours = [out_TBO, *torch.autograd.grad(out_TBO, inputs, pull_TBO)]
    parallel_state._set_global_memory_buffer()  # of Megatron's function; lehr's has none
    theirs_TBO = linear_with_grad_accumulation_and_async_allreduce(
        x_tBD,
        torch.cat([column.weight for column in columns]),  # type: ignore[arg-type]
        torch.cat([column.bias for column in columns]) if bias else None,  # type: ignore[arg-type]
        gradient_accumulation_fusion=False,
        allreduce_dgrad=not sequence,
        sequence_parallel=sequence,
        tp_group=mesh.tensor.group,
    )
    theirs = [theirs_TBO, *torch.autograd.grad(theirs_TBO, inputs, pull_TBO)]
    return [(mine.detach(), other.detach()) for mine, other in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize(("bias", "dtype"), [(False, torch.float32), (True, torch.float32), (True, torch.bfloat16)])
def test_joined_columns_are_megatrons_linear_map_to_the_bit(sequence: bool, bias: bool, dtype: torch.dtype) -> None:
    for pairs in run_ranks(2, _both, sequence, bias, dtype):
        assert len(pairs) == 1 + 1 + 3 * (1 + bias)
        for ours, theirs in pairs:
            assert torch.equal(ours, theirs)


def test_neighbours_in_memory_are_joined_without_a_copy() -> None:
    memory = torch.arange(60.0)
    first, second, third = memory[5:17].view(2, 6), memory[17:35].view(3, 6), memory[36:42].view(1, 6)
    assert torch.equal(joined([first, second]), memory[5:35].view(5, 6))
    assert joined([first, second]).data_ptr() == first.data_ptr()
    strided = memory[42:60].view(6, 3).t()
    for apart in ([second, first], [second, third], [first, second.clone()], [third, strided]):
        assert torch.equal(joined(apart), torch.cat(apart))
        assert joined(apart).data_ptr() != apart[0].data_ptr()


def neighbours() -> tuple[bool, bool]:
    """Returns whether a tensor rank's engine joins the first layer's gate and up, and k and v, without a copy."""
    trial = Trial(parallel={"tensor": 2})
    _, parts = start(trial, make_mesh(ParallelConfig(tensor=2), timeout_seconds=60))
    weights = dict(parts.chunks[0].transformer.named_parameters())
    pairs = (("mlp.gate", "mlp.up"), ("attention.k", "attention.v"))
    columns = [[weights[f"layers.0.{name}.weight"] for name in pair] for pair in pairs]
    gate_up, k_v = (joined(pair).data_ptr() == pair[0].data_ptr() for pair in columns)
    return gate_up, k_v


def test_an_engine_places_columns_of_one_input_side_by_side() -> None:
    assert run_ranks(2, neighbours) == [(True, True)] * 2
