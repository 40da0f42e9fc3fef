"""The grid of ranks: tensor x data x pipeline, each axis with its process group, made by Megatron's parallel_state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

import parallel.patches.before_megatron  # noqa: F401

# isort: split
from megatron.core import parallel_state

from parallel.config import ParallelConfig


@dataclass(frozen=True)
class Axis:
    """One axis of the mesh as this rank sees it."""

    size: int
    rank: int
    group: dist.ProcessGroup


@dataclass(frozen=True)
class Mesh:
    """This rank's position on each axis; ranks that differ only in `tensor` are neighbours."""

    tensor: Axis
    data: Axis
    pipeline: Axis
    embedding: dist.ProcessGroup | None  # first and last stage, if this rank is on one of them and they differ
    device: torch.device
    rank: int
    world_size: int

    @property
    def is_last_stage(self) -> bool:
        return self.pipeline.rank == self.pipeline.size - 1


def start_processes(*, rank: int, world_size: int, gpu: int, timeout_seconds: float, store: Store) -> None:
    """Joins the process group: NCCL if there is CUDA, else gloo. Every group made later has the same timeout.

    `gpu`: the number of this rank's GPU among those it sees; without CUDA it is not read.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(gpu)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
        store=store,
    )


def make_mesh(config: ParallelConfig, *, timeout_seconds: float) -> Mesh:
    """Divides the world into axes. The process group must exist, and the layout must have been checked."""
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.tensor,
        pipeline_model_parallel_size=config.pipeline,
        virtual_pipeline_model_parallel_size=config.virtual_stages if config.virtual_stages > 1 else None,
        create_gloo_process_groups=False,  # they would come on top of NCCL's, one of them without a timeout
        distributed_timeout_minutes=timeout_seconds / 60,  # annotated as an int, used as a timedelta's argument
    )
    pipeline = _axis(parallel_state.get_pipeline_model_parallel_group())
    at_an_end = pipeline.size > 1 and pipeline.rank in (0, pipeline.size - 1)
    return Mesh(
        tensor=_axis(parallel_state.get_tensor_model_parallel_group()),
        data=_axis(parallel_state.get_data_parallel_group()),
        pipeline=pipeline,
        embedding=parallel_state.get_embedding_group() if at_an_end else None,
        device=torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu"),
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
    )


def stop_processes() -> None:
    """Leaves all process groups."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def _axis(group: dist.ProcessGroup) -> Axis:
    return Axis(size=dist.get_world_size(group), rank=dist.get_rank(group), group=group)
