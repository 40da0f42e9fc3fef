"""The place of a rank, as messages name it."""

from __future__ import annotations

import socket

import torch

from parallel.mesh import Mesh


def place_of_rank(mesh: Mesh) -> str:
    """Returns the number, the node and the device of this rank, such as `rank 3 (node a, cuda:1)`."""
    return f"rank {mesh.rank} (node {socket.gethostname()}, {_device_name(mesh.device)})"


def _device_name(device: torch.device) -> str:
    """Returns the device and the id of a GPU: each rank may see only its own, as number 0."""
    if device.type != "cuda":
        return str(device)
    return f"{device} GPU-{torch.cuda.get_device_properties(device).uuid}"
