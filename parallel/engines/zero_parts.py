"""A parameter's float32 values under ZeRO 2 and 3: whole from DeepSpeed's flat parts, and back into them.

Each value is the master, or the moment of the optimizer that is named.
"""

from __future__ import annotations

from torch import Tensor, nn

from parallel.mesh import Axis


def gather(parameter: nn.Parameter, moment: str | None) -> Tensor:
    """The whole value, on the device. A collective of the data ranks."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    value: Tensor = (
        safe_get_full_fp32_param(parameter) if moment is None else safe_get_full_optimizer_state(parameter, moment)
    )
    return value


def scatter(whole: Tensor, parameter: nn.Parameter, moment: str | None, data: Axis) -> None:
    """Take this data rank's part of a whole value, which may be on any device. No collective."""
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    value, set_master, set_moment = whole, safe_set_full_fp32_param, safe_set_full_optimizer_state
    if hasattr(parameter, "ds_tensor"):
        value, set_master, set_moment = (
            _part(whole, parameter.ds_tensor.numel(), data.rank),
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )
    if moment is None:
        set_master(parameter, value)
    else:
        set_moment(parameter, value, moment)


def _part(whole: Tensor, size: int, rank: int) -> Tensor:
    """ZeRO 3 cuts each parameter into as many parts of one size as there are ranks, the last filled up with zeros.

    DeepSpeed's own way from a whole value to its parts takes them to be full.
    """
    part = whole.new_zeros(size)
    values = whole.flatten()[rank * size : (rank + 1) * size]
    part[: len(values)] = values
    return part
