"""DeepSpeed's import, its config and its view of the mesh."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

from parallel.engines.engine import EngineInputs
from parallel.engines.gradient_clipping import deepspeed_clipping
from parallel.mesh import Mesh


def import_deepspeed() -> ModuleType:
    """Returns the package. It is imported late, since that takes seconds and only ZeRO 2 and 3 need it."""
    import deepspeed
    from deepspeed.ops import __compatible_ops__
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    # DeepSpeed would build its shared-memory all-reduce, which is for inference, at the first start on a machine. That
    # takes a compiler and half a minute, and a rank that is killed meanwhile leaves a lock for which every later run
    # would wait. DeepSpeed has no setting for it: it looks up in this table whether the operator can be built.
    __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed  # type: ignore[no-any-return]


def deepspeed_config(inputs: EngineInputs) -> dict[str, Any]:
    """Returns the config of `deepspeed.initialize`."""
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only counts micro-batches; lehr chooses their rows
        "gradient_accumulation_steps": inputs.micro_batches,
        **deepspeed_clipping(inputs.optimizer.clip_grad_norm),
        "zero_optimization": {"stage": inputs.zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 10**9,
    }
    if inputs.offload:
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    if inputs.dtype == torch.bfloat16:
        settings["bf16"] = {"enabled": True}
    return settings


class ModelParallelUnit:
    """The `mpu` argument of `deepspeed.initialize`. Without a pipeline, "model parallel" is the tensor axis."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def get_model_parallel_group(self) -> dist.ProcessGroup:
        return self._mesh.tensor.group

    def get_model_parallel_rank(self) -> int:
        return self._mesh.tensor.rank

    def get_model_parallel_world_size(self) -> int:
        return self._mesh.tensor.size

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_rank = get_model_parallel_rank
    get_tensor_model_parallel_world_size = get_model_parallel_world_size

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        return self._mesh.data.group

    def get_data_parallel_rank(self) -> int:
        return self._mesh.data.rank

    def get_data_parallel_world_size(self) -> int:
        return self._mesh.data.size
