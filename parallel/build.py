"""Builds this rank's part of the model and its engine: the order in which the parallelisms are applied, in one place.

1. tensor and sequence: the kind of layers that the model is built from    (parallel.layers)
2. pipeline: the layers of this rank's chunks, on the meta device          (parallel.chunk)
3. data and ZeRO: memory for weights, gradients and optimizer state        (parallel/engines)
4. initial weights: full parameters drawn by global name, then sharded     (model.init)

The last step is left out where a checkpoint is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from model.attention import AttentionMask, Kernel, attend_by
from model.config import ModelConfig
from model.init import Wanted, draw
from model.loss_kernels import LossKernelName, choose_loss_kernel, loss_kernel_by
from model.parameter import spec_of
from model.recompute import Recompute
from optim.optimizer import OptimizerConfig
from parallel.attention_kernel import usable_kernel
from parallel.chunk import PipelineChunk, pipeline_chunks
from parallel.compute_timer import ComputeTimer
from parallel.config import ParallelConfig
from parallel.engines.build_engine import build_engine
from parallel.engines.engine import Engine, EngineInputs
from parallel.engines.slices import Slice
from parallel.mesh import Axis, Mesh
from parallel.parameter_shards import ParameterShard, parameter_shards, shard_of
from parallel.run_plan import run_plan

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ComputeConfig:
    """How forward and backward passes are computed. parallel/compute_choice.py resolves `auto` for all ranks."""

    precision: Literal["float32", "bfloat16"] = "float32"
    attention: Kernel | Literal["auto"] = "auto"
    recompute: Recompute = "none"
    compile: Literal["auto", True, False] = False
    cross_entropy: LossKernelName | Literal["auto"] = "auto"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights in forward and backward passes."""
        return DTYPES[self.precision]


@dataclass(frozen=True)
class LocalModel:
    """This rank's part of the model: its pipeline chunks, and the builder of the attention masks that they take."""

    chunks: tuple[PipelineChunk, ...]
    build_attention_mask: Callable[[Tensor], AttentionMask | None]  # from document numbers [B, T] on the CPU

    @property
    def compute_timer(self) -> ComputeTimer:
        """The timer of the passes of all chunks."""
        return self.chunks[0].compute_timer


@dataclass(frozen=True)
class TrainableModel(LocalModel):
    """The same with the engine that trains it. The weights are zeros until they are drawn or loaded."""

    engine: Engine
    draw_weights: Callable[[], None]  # a collective


def build(
    model: ModelConfig,
    parallel: ParallelConfig,
    optimizer: OptimizerConfig,
    mesh: Mesh,
    *,
    compute: ComputeConfig,
    seq_length: int,
    micro_batches: int,
    seed: int,
    total_steps: int,
) -> TrainableModel:
    """Builds this rank's part of the model, and the engine that trains it. `seed` is that of the initial weights."""
    local = build_local_model(model, parallel, mesh, compute=compute, seq_length=seq_length)
    shards = parameter_shards(
        [chunk.transformer for chunk in local.chunks],
        mesh.tensor,
        sequence=parallel.sequence,
        holds_tied_copy=model.tied_embeddings and parallel.pipeline > 1 and mesh.is_last_stage,
    )
    assert compute.compile != "auto", "parallel/compute_choice.py resolves it"
    if compute.compile:
        for chunk in local.chunks:
            chunk.transformer.compile_blocks()
    engine = build_engine(
        EngineInputs(
            chunks=local.chunks,
            shards=shards,
            mesh=mesh,
            optimizer=optimizer,
            zero=parallel.zero,
            offload=parallel.offload == "optimizer",
            dtype=compute.dtype,
            micro_batches=micro_batches,
            plan=run_plan(model, seq_length=seq_length, steps=total_steps),
        )
    )

    def draw_weights() -> None:
        draw(wanted_weights(engine, shards, mesh.tensor), model.init, num_layers=model.num_layers, seed=seed)
        engine.loaded(optimizer_steps=0)

    return TrainableModel(local.chunks, local.build_attention_mask, engine, draw_weights)


def wanted_weights(engine: Engine, shards: Sequence[ParameterShard], tensor: Axis) -> list[Wanted]:
    """Returns the parameters of which this rank holds the masters, all or some of each, to be filled from full ones."""
    slices = engine.state(saving=False)

    def fill(shard: ParameterShard, part: Slice, full: Tensor) -> None:
        part.fill(shard_of(full, shard.dim, tensor))

    return [
        Wanted(shard.name, spec_of(shard.parameter, shard.name), shard.shape, partial(fill, shard, slices[key]))
        for shard in shards
        if (key := f"model.{shard.name}") in slices
    ]


def build_local_model(
    model: ModelConfig, parallel: ParallelConfig, mesh: Mesh, *, compute: ComputeConfig, seq_length: int
) -> LocalModel:
    """Builds this rank's part of the model on the meta device."""
    dtype = compute.dtype
    kernel = usable_kernel(compute.attention, model, mesh, dtype=dtype)
    chunks = pipeline_chunks(
        model,
        parallel,
        mesh,
        seq_length=seq_length,
        attend=attend_by(kernel),
        loss_kernel=loss_kernel_by(choose_loss_kernel(compute.cross_entropy, mesh.device, dtype)),
        recompute=compute.recompute,
        dtype=dtype,
    )
    return LocalModel(
        tuple(chunks),
        lambda documents_BT: AttentionMask.from_documents(documents_BT, kernel=kernel, dtype=dtype, device=mesh.device),
    )
