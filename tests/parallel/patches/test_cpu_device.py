"""The patches that let Megatron run on the CPU: it still needs each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from parallel_runs import Trial, on_a_rank
from processes import run_ranks

from parallel.patches import cpu_device

LAYOUTS: dict[str, dict[str, Any]] = {"pipeline2": {"pipeline": 2}, "tensor2": {"tensor": 2, "sequence": True}}
# Where Megatron uses each patch, by layout.
NEEDED = {
    "torch.cuda.current_device": {"pipeline2", "tensor2"},
    'device="cuda"': {"pipeline2", "tensor2"},
    "torch.cuda.synchronize": {"pipeline2"},
}


def calls_of_patches(parallel: dict[str, Any]) -> dict[str, int]:
    """Returns how often one training step uses each patch."""
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    torch.cuda.current_device = counted("torch.cuda.current_device", torch.cuda.current_device)
    torch.cuda.synchronize = counted("torch.cuda.synchronize", torch.cuda.synchronize)

    class CountingMode(cpu_device._CudaToCpu):
        def __torch_function__(
            self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            calls['device="cuda"'] += (kwargs or {}).get("device") == "cuda"
            return super().__torch_function__(func, types, args, kwargs)

    cpu_device._CudaToCpu = CountingMode  # type: ignore[misc]
    on_a_rank(Trial(parallel=parallel, steps=1))
    return dict(calls)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA nothing is patched")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_megatron_still_needs_each_patch(layout: str) -> None:
    calls = run_ranks(2, calls_of_patches, LAYOUTS[layout])[0]
    for patch, layouts in NEEDED.items():
        if layout in layouts:
            assert calls.get(patch), (
                f"Megatron does not use {patch}: try to remove it from parallel/patches/cpu_device.py"
            )


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA nothing is patched")
def test_the_mode_replaces_cuda_and_no_other_device() -> None:
    mode = cpu_device.redirect_cuda_to_cpu()
    assert mode is not None
    with mode:
        assert torch.zeros(1, device="cuda").device.type == "cpu"
        assert torch.zeros(1, device="meta").device.type == "meta"
    assert torch.cuda.current_device() == torch.device("cpu")
