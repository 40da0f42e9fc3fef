"""A parameter's float32 values under ZeRO 2 and 3: full tensors from DeepSpeed's partitions, and back into them.

The value is the master weight (`moment` is None) or a moment of the optimizer, by its name.
"""

from __future__ import annotations

from torch import Tensor, nn

from parallel.mesh import Axis


def gather_partitions(parameter: nn.Parameter, moment: str | None) -> Tensor:
    """Returns the full value on the device. A collective of the data ranks."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    value: Tensor = (
        safe_get_full_fp32_param(parameter) if moment is None else safe_get_full_optimizer_state(parameter, moment)
    )
    return value


def write_partition(full: Tensor, parameter: nn.Parameter, moment: str | None, data: Axis) -> None:
    """Writes this data rank's partition of a full value, which may be on any device. Not a collective."""
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    value, set_master, set_moment = full, safe_set_full_fp32_param, safe_set_full_optimizer_state
    if hasattr(parameter, "ds_tensor"):  # ZeRO 3
        value, set_master, set_moment = (
            _partition(full, parameter.ds_tensor.numel(), data.rank),
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )
    if moment is None:
        set_master(parameter, value)
    else:
        set_moment(parameter, value, moment)


def _partition(full: Tensor, size: int, rank: int) -> Tensor:
    """Returns the `size` elements of a rank's partition: under ZeRO 3 all are of one size, the last padded with zeros.

    DeepSpeed's functions that take a full value (safe_set_full_fp32_param) assume that no partition is padded.
    """
    partition = full.new_zeros(size)
    values = full.flatten()[rank * size : (rank + 1) * size]
    partition[: len(values)] = values
    return partition
