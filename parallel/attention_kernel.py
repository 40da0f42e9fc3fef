"""The attention kernel that a rank can use."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch

from model.attention import Kernel
from model.config import ModelConfig
from model.kernel_choice import AttentionSetting, Trial, choose_kernel, try_kernel, why_not
from parallel.mesh import Mesh


def usable_kernel(wanted: Kernel | Literal["auto"], model: ModelConfig, mesh: Mesh, *, dtype: torch.dtype) -> Kernel:
    """Returns the wanted kernel, or with `auto` the fastest kind that runs on this rank. Raises UserError."""
    return choose_kernel(wanted, *_setting_and_trial(model, mesh, dtype))


def why_not_here(kernel: Kernel, model: ModelConfig, mesh: Mesh, *, dtype: torch.dtype) -> str | None:
    """Returns why this rank cannot use a kernel, or None."""
    return why_not(kernel, *_setting_and_trial(model, mesh, dtype))


def _setting_and_trial(model: ModelConfig, mesh: Mesh, dtype: torch.dtype) -> tuple[AttentionSetting, Trial]:
    setting = AttentionSetting.on(mesh.device, dtype)
    groups = model.num_heads // model.kv_heads
    return setting, partial(try_kernel, setting=setting, heads=2 * groups, kv_heads=2, head_size=model.head_size)
