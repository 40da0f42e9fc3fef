"""The mistakes in `train.profile` that need more than its own section to be seen, before a process is started."""

from __future__ import annotations

import torch

from parallel.config import ParallelConfig
from settings import UserError
from train.config import ProfileConfig


def check_profile(profile: ProfileConfig, parallel: ParallelConfig, *, world_size: int) -> None:
    """Raises UserError for a rank that does not exist, and for a snapshot of GPU memory on a machine without a GPU."""
    absent = [rank for rank in profile.ranks if rank >= world_size]
    if absent:
        tensor, pipeline = parallel.tensor, parallel.pipeline
        raise UserError(
            f"train.profile.ranks = {list(profile.ranks)}: there is no rank {absent[0]}; "
            f"tensor {tensor} x pipeline {pipeline} x data {world_size // (tensor * pipeline)} has {world_size} ranks, "
            f"numbered from 0; set it to ranks below {world_size}"
        )
    if profile.memory and not torch.cuda.is_available():
        raise UserError(
            "train.profile.memory = true takes a snapshot of CUDA's memory, and torch can use no GPU on this machine; "
            "set train.profile.memory=false (the trace of the steps needs no GPU)"
        )
