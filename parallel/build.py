"""Builds this rank's part of the model and its engine: the order in which the parallelisms are applied, in one place.

1. tensor and sequence: the kind of layers that the model is built from    (parallel.layers)
2. pipeline: the layers of this rank's chunks                              (parallel.chunk)
3. initial weights: full parameters drawn by global name, then sharded     (model.init)
4. data and ZeRO: the owners of weights, gradients and optimizer state     (parallel/engines)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.attention import AttentionMask, Kernel, attend_by
from model.config import ModelConfig
from model.init import initialise
from optim.optimizer import OptimizerConfig
from parallel.attention_kernel import usable_kernel
from parallel.chunk import PipelineChunk, pipeline_chunks
from parallel.config import ParallelConfig
from parallel.engines.build_engine import build_engine
from parallel.engines.engine import Engine, EngineInputs
from parallel.mesh import Mesh
from parallel.parameter_shards import parameter_shards, shard_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ComputeConfig:
    """How forward and backward passes are computed."""

    precision: Literal["float32", "bfloat16"] = "float32"
    attention: Kernel | Literal["auto"] = "auto"
    recompute: Literal["none", "selective", "full"] = "none"
    compile: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights in forward and backward passes."""
        return DTYPES[self.precision]


@dataclass(frozen=True)
class LocalModel:
    """This rank's part of the model: its pipeline chunks, and the builder of the attention masks that they take."""

    chunks: tuple[PipelineChunk, ...]
    build_attention_mask: Callable[[Tensor], AttentionMask | None]  # from document numbers [B, T] on the CPU


@dataclass(frozen=True)
class TrainableModel(LocalModel):
    """The same with initial weights, and the engine that trains them."""

    engine: Engine


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
) -> TrainableModel:
    """Builds this rank's part of the model with initial weights, and the engine that trains it."""
    local = build_local_model(model, parallel, mesh, compute=compute, seq_length=seq_length)
    shards = parameter_shards(
        [chunk.transformer for chunk in local.chunks],
        mesh.tensor,
        sequence=parallel.sequence,
        holds_tied_copy=model.tied_embeddings and parallel.pipeline > 1 and mesh.is_last_stage,
    )
    by_name = {shard.name: shard for shard in shards}
    initialise(
        [(shard.name, shard.parameter) for shard in shards],
        model.init,
        num_layers=model.num_layers,
        seed=seed,
        full_shape=lambda name, _: by_name[name].shape,
        take_shard=lambda name, _, full: shard_of(full, by_name[name].dim, mesh.tensor),
    )
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
        )
    )
    return TrainableModel(local.chunks, local.build_attention_mask, engine)


def build_local_model(
    model: ModelConfig, parallel: ParallelConfig, mesh: Mesh, *, compute: ComputeConfig, seq_length: int
) -> LocalModel:
    """Builds this rank's part of the model in float32, without values."""
    dtype = compute.dtype
    kernel = usable_kernel(compute.attention, model, mesh, dtype=dtype)
    chunks = pipeline_chunks(
        model,
        parallel,
        mesh,
        seq_length=seq_length,
        attend=attend_by(kernel),
        recompute=compute.recompute,
        dtype=dtype,
    )
    return LocalModel(
        tuple(chunks),
        lambda documents_BT: AttentionMask.from_documents(documents_BT, kernel=kernel, dtype=dtype, device=mesh.device),
    )
