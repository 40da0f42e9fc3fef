"""The attention kernel of a run: rank 0 chooses it for all, and a run that goes on keeps it."""

from __future__ import annotations

from functools import partial
from typing import Literal, cast, get_args

import torch

from model.attention import Kernel
from model.config import ModelConfig
from model.kernel_choice import AttentionSetting, Trial, choose_kernel, try_kernel, why_not
from parallel.agree import agree
from parallel.mesh import Mesh


def agree_on_kernel(
    wanted: Kernel | Literal["auto"], model: ModelConfig, mesh: Mesh, *, dtype: torch.dtype, recorded: str | None
) -> tuple[Kernel, str | None]:
    """Returns the kernel for all ranks, and a warning if it is not the run's until now. A collective.

    `recorded` is the kernel of the run's last start, on rank 0; `auto` keeps it. Raises UserError on every rank if the
    kernel cannot be used on one of them.
    """

    def choose() -> tuple[Kernel, str | None] | None:
        if mesh.rank != 0:
            return None
        if wanted != "auto" or recorded not in get_args(Kernel):
            return usable_kernel(wanted, model, mesh, dtype=dtype), None
        before = cast(Kernel, recorded)
        reason = why_not(before, *_setting_and_trial(model, mesh, dtype))
        if reason is None:
            return before, None
        chosen = usable_kernel("auto", model, mesh, dtype=dtype)
        warning = f"the run has used the attention kernel {before} until now, which cannot be used here: {reason}"
        return chosen, f"{warning}; it goes on with {chosen}, which rounds differently"

    kernel, warning = agree(choose)[0]
    agree(lambda: usable_kernel(kernel, model, mesh, dtype=dtype) if mesh.rank else None)
    return kernel, warning


def usable_kernel(wanted: Kernel | Literal["auto"], model: ModelConfig, mesh: Mesh, *, dtype: torch.dtype) -> Kernel:
    """Returns the wanted kernel, or with `auto` the fastest kind that runs on this rank. Raises UserError."""
    return choose_kernel(wanted, *_setting_and_trial(model, mesh, dtype))


def _setting_and_trial(model: ModelConfig, mesh: Mesh, dtype: torch.dtype) -> tuple[AttentionSetting, Trial]:
    setting = AttentionSetting.on(mesh.device, dtype)
    groups = model.num_heads // model.kv_heads
    return setting, partial(try_kernel, setting=setting, heads=2 * groups, kv_heads=2, head_size=model.head_size)
