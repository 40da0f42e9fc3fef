"""Memory of the host that is copied to or from a rank's device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.device_copy import pins_memory


def host_empty(shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns a tensor on the host, without values, that is to be copied to or from `device`."""
    return torch.empty(shape, dtype=dtype, pin_memory=pins_memory(device))
