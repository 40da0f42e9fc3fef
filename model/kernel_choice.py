"""The choice of the attention kernel: by rules alone, never by a timing or by free memory, since it decides bits.

A kernel counts as usable if it imports and if its outputs and gradients for a few tokens are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.attention import KERNELS, AttentionMask, Kernel, attend_by
from model.kernel_trial import largest_error, why_it_fails
from model.packed import FLASH_MODULES
from settings import UserError

_INSTALL = {
    "flash": "pip install 'lehr[gpu]' --no-build-isolation",
    "flash3": "build the folder hopper of https://github.com/Dao-AILab/flash-attention",
    "flash4": "pip install flash-attn-4",
}
_TOLERANCE = 0.05  # of the norm, in 16 bits, against float32


@dataclass(frozen=True)
class AttentionSetting:
    """What the choice depends on."""

    device: torch.device
    dtype: torch.dtype  # the model's
    capability: tuple[int, int] = (0, 0)  # of the GPU: (9, 0) is Hopper, (10, 0) Blackwell

    @staticmethod
    def on(device: torch.device, dtype: torch.dtype) -> AttentionSetting:
        """Describes a device of this machine."""
        return AttentionSetting(
            device, dtype, torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
        )


Trial = Callable[[Kernel], str | None]  # returns why a kernel cannot be used, or None


def choose_kernel(wanted: Kernel | Literal["auto"], setting: AttentionSetting, trial: Trial | None = None) -> Kernel:
    """Resolves `auto` to the first kernel of `preferred_kernels` without an obstacle.

    `trial` runs a kernel, see `try_kernel`; without one, packages are taken to run. Raises UserError if the wanted
    kernel cannot be used.
    """
    if wanted != "auto":
        if reason := why_not(wanted, setting, trial):
            raise UserError(f"train.attention = {wanted} cannot be used: {reason}; or set train.attention to auto")
        return wanted
    return next(kernel for kernel in preferred_kernels(setting) if not why_not(kernel, setting, trial))


def preferred_kernels(setting: AttentionSetting) -> tuple[Kernel, ...]:
    """Returns the kernels that `auto` considers, the fastest first.

    On a GPU torch's SDPA is cuDNN's or flash-attn 2's kernel, so torch alone is before the package flash-attn 2.
    """
    if setting.device.type == "cpu":
        return ("blocked", "sdpa") if setting.dtype == torch.float32 else ("sdpa",)
    newest: dict[int, tuple[Kernel, ...]] = {9: ("flash3",), 10: ("flash4",)}
    return (*newest.get(setting.capability[0], ()), "varlen", "flash", "sdpa")


def why_not(kernel: Kernel, setting: AttentionSetting, trial: Trial | None = None) -> str | None:
    """Returns why a kernel cannot be used, or None; `trial` as for `choose_kernel`. sdpa can always be used."""
    if kernel == "sdpa":
        return None
    if kernel == "blocked":
        return None if setting.device.type == "cpu" else f"it is for the CPU, and the model is on {setting.device.type}"
    if setting.device.type != "cuda":
        return f"it needs a CUDA device, and the model is on {setting.device.type}"
    if setting.dtype not in (torch.bfloat16, torch.float16):
        return "it needs train.precision = bfloat16"
    return None if trial is None else trial(kernel)


def try_kernel(kernel: Kernel, setting: AttentionSetting, *, heads: int, kv_heads: int, head_size: int) -> str | None:
    """Runs a kernel forward and backward on a few tokens, with one document a row and with several.

    Returns why it cannot be used: it does not import, it raises, or its results are wrong. None if it can.
    """
    hint = f"; install it with: {_INSTALL[kernel]}" if kernel in FLASH_MODULES else ""
    sizes = (heads, kv_heads, head_size)
    return why_it_fails(
        lambda: largest_error(pair for several in (False, True) for pair in _pairs(kernel, setting, several, sizes)),
        tolerance=_TOLERANCE,
        install=hint,
    )


def _pairs(
    kernel: Kernel, setting: AttentionSetting, several: bool, sizes: tuple[int, int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Returns the output and the gradients of a kernel, each with sdpa's in float32."""
    rows, length = 2, 48
    heads, kv_heads, size = sizes
    place_T = torch.arange(length)
    documents_BT = torch.stack((place_T >= 5, place_T >= 32)).int() * several

    def results(attend: Callable[..., Tensor], kernel: Kernel, dtype: torch.dtype) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(length, rows, count, size, generator=generator) for count in (heads, kv_heads, kv_heads)]
        pull = torch.randn(rows, heads, length, size, generator=generator)
        inputs = [
            each.to(setting.device, setting.dtype).to(dtype).permute(1, 2, 0, 3).requires_grad_() for each in drawn
        ]
        mask = AttentionMask.from_documents(documents_BT, kernel=kernel, dtype=dtype, device=setting.device)
        with torch.enable_grad():
            out = attend(*inputs, mask)
        gradients = torch.autograd.grad(out, inputs, pull.to(setting.device, setting.dtype).to(dtype))
        return [each.detach() for each in (out, *gradients)]

    found, right = results(attend_by(kernel), kernel, setting.dtype), results(KERNELS["sdpa"], "sdpa", torch.float32)
    return zip(found, right, strict=True)
