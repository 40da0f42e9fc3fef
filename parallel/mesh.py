"""The grid of ranks: tensor x data x pipeline, each axis with its process group."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from parallel.config import ParallelConfig
from parallel.process_groups import make_groups, partitions


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
    embedding: dist.ProcessGroup | None  # first and last stage, if they share a weight and this rank is on one of them
    device: torch.device
    rank: int
    world_size: int

    @property
    def is_last_stage(self) -> bool:
        return self.pipeline.rank == self.pipeline.size - 1


def start_processes(*, rank: int, world_size: int, gpu: int, timeout_seconds: float, store: Store) -> None:
    """Joins the process group of all ranks: gloo for the host, and NCCL for the device if there is CUDA.

    `gpu`: the number of this rank's GPU among those it sees; without CUDA it is not read.
    """
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(gpu)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_seconds),
        store=store,
        device_id=torch.device("cuda", gpu) if cuda else None,  # NCCL connects now, and later groups are split from it
    )


def make_mesh(config: ParallelConfig, *, timeout_seconds: float, tied_embeddings: bool = True) -> Mesh:
    """Divides the world into axes. The process group must exist, and the layout must have been checked.

    `tied_embeddings`: whether the first and the last stage exchange the gradient of a weight that both hold.
    """
    world_size = dist.get_world_size()
    sizes = {"tensor": config.tensor, "pipeline": config.pipeline}
    parts = partitions(data=world_size // (config.tensor * config.pipeline), **sizes)
    if not tied_embeddings:
        parts.pop("embedding", None)
    groups = make_groups(parts, timeout_seconds=timeout_seconds)
    return Mesh(
        tensor=_axis(groups["tensor"]),
        data=_axis(groups["data"]),
        pipeline=_axis(groups["pipeline"]),
        embedding=groups.get("embedding"),
        device=torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu"),
        rank=dist.get_rank(),
        world_size=world_size,
    )


def stop_processes() -> None:
    """Leaves all process groups."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _axis(group: dist.ProcessGroup | None) -> Axis:
    assert group is not None, "every rank is on every axis"
    return Axis(size=dist.get_world_size(group), rank=dist.get_rank(group), group=group)
