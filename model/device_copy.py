"""Copies from the host to the model's device. A GPU makes them by itself, in the order of its stream's work."""

from __future__ import annotations

import torch
from torch import Tensor


def pins_memory(device: torch.device) -> bool:
    """Returns whether memory of the host that is copied to or from a device is pinned: a GPU reads it by itself."""
    return device.type == "cuda"


def copied_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor of the host on a device, on a CPU itself. The host does not wait for a GPU.

    A copy from memory that is not pinned would first wait for all work of the stream. torch keeps the pinned memory
    until the copy from it is done, in whatever stream that is.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if pins_memory(device) else tensor.to(device)
