"""DeepSpeed's import, its config and its view of the mesh."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from model.device_copy import pins_memory
from model.memory import REDUCE_BUCKET_ELEMENTS
from model.parameter import allocate
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
    elements = sum(shard.parameter.numel() for shard in inputs.shards)
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only counts micro-batches; lehr chooses their rows
        "gradient_accumulation_steps": inputs.micro_batches,
        **deepspeed_clipping(inputs.optimizer.clip_grad_norm),
        "zero_optimization": {
            "stage": inputs.zero,
            "reduce_bucket_size": min(elements, REDUCE_BUCKET_ELEMENTS),  # ZeRO 3 allocates all of it
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 10**9,
    }
    if inputs.offload:
        pin = pins_memory(inputs.mesh.device)
        settings["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": pin}
    if inputs.dtype == torch.bfloat16:
        settings["bf16"] = {"enabled": True}
    return settings


def allocate_weights(inputs: EngineInputs, config: dict[str, Any], unit: ModelParallelUnit) -> None:
    """Gives the parameters of a model on the meta device their memory, zeros in the dtype of forward and backward.

    Under ZeRO 3 each is partitioned before the next one is allocated: no rank holds more than one of them in full.
    """
    partitioned: Any = None
    for shard in inputs.shards:
        parameter = shard.parameter
        allocate(parameter, torch.zeros(parameter.shape, dtype=inputs.dtype, device=inputs.mesh.device))
        if inputs.zero < 3:
            continue
        if partitioned is None:
            partitioned = _partition_first(parameter, inputs, config, unit)
        else:
            partitioned.convert_to_zero_parameters([parameter])


def _partition_first(
    parameter: nn.Parameter, inputs: EngineInputs, config: dict[str, Any], unit: ModelParallelUnit
) -> nn.Parameter:
    """Partitions a parameter, by which DeepSpeed then partitions others in the same way."""
    from deepspeed import zero

    zero.Init(
        nn.ParameterList([parameter]),
        data_parallel_group=inputs.mesh.data.group,
        dtype=inputs.dtype,
        config_dict_or_path=config,
        mpu=unit,
    )
    return parameter


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
