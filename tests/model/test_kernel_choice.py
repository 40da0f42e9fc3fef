"""Which attention kernel is chosen, for described machines; and the trial that a kernel must pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import model.kernel_choice
from model.attention import KERNELS, AttentionMask, Kernel
from model.kernel_choice import AttentionSetting, choose_kernel, try_kernel
from settings import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HOPPER = AttentionSetting(CUDA, torch.bfloat16, (9, 0))
BLACKWELL = AttentionSetting(CUDA, torch.bfloat16, (10, 0))
AMPERE = AttentionSetting(CUDA, torch.bfloat16, (8, 0))


@pytest.mark.parametrize(
    ("setting", "runs", "chosen"),
    [
        (AttentionSetting(CPU, torch.float32), "", "blocked"),
        (AttentionSetting(CPU, torch.bfloat16), "", "sdpa"),
        (AttentionSetting(CUDA, torch.float32, (9, 0)), "varlen flash flash3", "sdpa"),
        (HOPPER, "varlen flash flash3 flash4", "flash3"),
        (HOPPER, "varlen flash", "varlen"),
        (HOPPER, "flash", "flash"),
        (HOPPER, "", "sdpa"),
        (BLACKWELL, "varlen flash flash3 flash4", "flash4"),
        (AMPERE, "varlen flash flash3 flash4", "varlen"),
    ],
)
def test_auto_is_the_first_that_runs(setting: AttentionSetting, runs: str, chosen: Kernel) -> None:
    assert choose_kernel("auto", setting, lambda kernel: None if kernel in runs.split() else "no") == chosen


def test_a_wanted_kernel_is_taken_or_refused() -> None:
    cpu = AttentionSetting(CPU, torch.bfloat16)
    assert choose_kernel("sdpa", cpu, lambda _: "no") == "sdpa"
    assert choose_kernel("flash", HOPPER, lambda _: None) == "flash"
    with pytest.raises(UserError, match=r"train.attention = flash cannot be used: it needs a CUDA device"):
        choose_kernel("flash", cpu)
    with pytest.raises(UserError, match=r"train.precision = bfloat16"):
        choose_kernel("varlen", AttentionSetting(CUDA, torch.float32))
    with pytest.raises(UserError, match=r"train.attention = blocked cannot be used: it is for the CPU"):
        choose_kernel("blocked", HOPPER)
    with pytest.raises(UserError, match=r"train.attention = flash3 cannot be used: no module; or set .* to auto"):
        choose_kernel("flash3", HOPPER, lambda _: "no module")


def tried(kernel: Kernel) -> str | None:
    return try_kernel(kernel, AttentionSetting(CPU, torch.float32), heads=4, kv_heads=2, head_size=8)


def test_a_kernel_must_import_run_and_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tried("blocked") is None
    assert str(tried("flash3")).startswith("it does not import (No module named 'flash_attn_interface'); install it")
    assert str(tried("varlen")).startswith("it does not run here (NotImplementedError: ")  # torch has it for CUDA only

    def without_mask(q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask | None) -> Tensor:
        return KERNELS["sdpa"](q, k, v, None)

    def not_a_number(*inputs: Any) -> Tensor:
        return KERNELS["sdpa"](*inputs) * torch.nan

    for wrong in (without_mask, not_a_number):
        monkeypatch.setattr(model.kernel_choice, "attend_by", lambda _, wrong=wrong: wrong)
        assert str(tried("sdpa")).startswith("its results are wrong here")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", ["varlen", "flash", "flash3", "flash4"])
@pytest.mark.parametrize(("heads", "kv_heads", "head_size"), [(8, 8, 64), (8, 2, 64), (4, 2, 128)])
def test_a_kernel_that_imports_runs_on_this_gpu(kernel: Kernel, heads: int, kv_heads: int, head_size: int) -> None:
    setting = AttentionSetting.on(CUDA, torch.bfloat16)
    reason = try_kernel(kernel, setting, heads=heads, kv_heads=kv_heads, head_size=head_size)
    if reason is not None and reason.startswith("it does not import"):
        pytest.skip(reason)
    assert reason is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_needs_no_mask_of_all_pairs_on_this_gpu() -> None:
    setting = AttentionSetting.on(CUDA, torch.bfloat16)
    assert choose_kernel(
        "auto", setting, lambda name: try_kernel(name, setting, heads=4, kv_heads=2, head_size=64)
    ) in (
        "flash4",
        "flash3",
        "varlen",
        "flash",
    )
