"""From a config to an engine: the order in which the parallelisms are applied, in one place.

1. tensor and sequence: the kind of layers the model is built from       (parallel.layers)
2. pipeline: which layers this rank's chunks have                        (parallel.stage)
3. initial weights, drawn whole by global name, then sliced              (model.init)
4. data and ZeRO: who owns which weights, gradients, optimizer state     (parallel/engines)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.attention import KERNELS, AttentionMask, choose_kernel
from model.config import ModelConfig
from model.init import initialise
from optim.optimizer import OptimizerConfig
from parallel.config import ParallelConfig
from parallel.engines.deepspeed_engine import DeepSpeedEngine
from parallel.engines.engine import Engine
from parallel.engines.sharded_optimizer_engine import ShardedOptimizerEngine
from parallel.mesh import Mesh
from parallel.parameter_shards import parameter_shards, shard_of
from parallel.stage import Stage, build_stages

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ComputeConfig:
    """How forward and backward are computed."""

    precision: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "sdpa", "blocked", "flash"] = "auto"
    recompute: Literal["none", "selective", "full"] = "none"
    compile: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of weights in forward and backward."""
        return DTYPES[self.precision]


@dataclass(frozen=True)
class Chunks:
    """This rank's part of the model, and how document masks are made for it."""

    stages: tuple[Stage, ...]
    documents: Callable[[Tensor], AttentionMask | None]  # document numbers [B, T] on the CPU -> masks on the device


@dataclass(frozen=True)
class Parts(Chunks):
    """What `build` makes: the chunks with values, and the engine that drives them."""

    engine: Engine


def build(
    model: ModelConfig,
    parallel: ParallelConfig,
    optimizer: OptimizerConfig,
    mesh: Mesh,
    *,
    arithmetic: ComputeConfig,
    seq_length: int,
    micro_batches: int,
    seed: int,
) -> Parts:
    """This rank's part of the model with initial weights, and the engine that trains it."""
    dtype = arithmetic.dtype
    chunks = build_chunks(model, parallel, mesh, arithmetic=arithmetic, seq_length=seq_length)
    stages = chunks.stages
    holds_tied_copy = model.tied_embeddings and parallel.pipeline > 1 and mesh.is_last_stage
    shards = parameter_shards(
        [stage.transformer for stage in stages],
        mesh.tensor,
        sequence=parallel.sequence,
        holds_tied_copy=holds_tied_copy,
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
    if arithmetic.compile:
        for stage in stages:
            stage.transformer.compile_blocks()
    offload = parallel.offload == "optimizer"
    engine: Engine
    if parallel.zero >= 2:
        engine = DeepSpeedEngine(
            stages[0],
            shards,
            mesh,
            optimizer,
            zero=parallel.zero,
            offload=offload,
            dtype=dtype,
            micro_batches=micro_batches,
        )
    else:
        engine = ShardedOptimizerEngine(
            stages, shards, mesh, optimizer, zero=parallel.zero, offload=offload, dtype=dtype
        )
    return Parts(stages, chunks.documents, engine)


def build_chunks(
    model: ModelConfig, parallel: ParallelConfig, mesh: Mesh, *, arithmetic: ComputeConfig, seq_length: int
) -> Chunks:
    """This rank's part of the model in float32, without values."""
    dtype = arithmetic.dtype
    kernel = choose_kernel(arithmetic.attention, device=mesh.device, dtype=dtype)
    stages = build_stages(
        model,
        parallel,
        mesh,
        seq_length=seq_length,
        attend=KERNELS[kernel],
        recompute=arithmetic.recompute,
        dtype=dtype,
    )
    return Chunks(
        tuple(stages),
        lambda documents_BT: AttentionMask.of(documents_BT, kernel=kernel, dtype=dtype, device=mesh.device),
    )
