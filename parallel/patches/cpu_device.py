"""Without a CUDA device: Megatron's schedules and mappings name the device "cuda"; here it becomes the CPU.

Imported before any module of megatron.core. On a machine with CUDA it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _CudaToCpu(TorchFunctionMode):
    """Turns `device="cuda"` in calls of torch functions into "cpu"."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def redirect_cuda_to_cpu() -> TorchFunctionMode | None:
    """The mode under which Megatron's schedules run: None where there is a CUDA device."""
    return None if torch.cuda.is_available() else _CudaToCpu()


def _redirect() -> None:
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]
    torch.cuda.synchronize = lambda *args, **kwargs: None


if not torch.cuda.is_available():
    _redirect()
