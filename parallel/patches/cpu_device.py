"""Megatron on a machine without CUDA: its device becomes the CPU. On a machine with CUDA nothing is changed.

Megatron has no setting for the device: its schedules and mappings create tensors on torch.cuda.current_device() or
"cuda" in dozens of places. torch.set_default_device does not change a device that is named, and copies of the schedules
would have to follow every release. tests/parallel/patches/test_cpu_device.py holds that each patch is still needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _CudaToCpu(TorchFunctionMode):
    """Replaces `device="cuda"` by "cpu" in calls of torch functions."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def redirect_cuda_to_cpu() -> TorchFunctionMode | None:
    """Returns the mode under which Megatron's schedules must run, or None if there is a CUDA device."""
    return None if torch.cuda.is_available() else _CudaToCpu()


def _patch_torch_cuda() -> None:
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]
    torch.cuda.synchronize = lambda *args, **kwargs: None


if not torch.cuda.is_available():
    _patch_torch_cuda()
