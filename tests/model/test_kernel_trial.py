"""A kernel that does not import, does not run or is wrong is not taken; a lack of memory says nothing about it."""

from __future__ import annotations

import math

import pytest
import torch

from model.kernel_trial import largest_error, why_it_fails
from model.layers import Layers
from model.loss_kernels import loss_kernel_error, torch_loss


def tried(found: float | Exception) -> str | None:
    def error() -> float:
        if isinstance(found, Exception):
            raise found
        return found

    return why_it_fails(error, tolerance=0.02, install="; install it")


def test_the_reason_says_what_is_wrong() -> None:
    assert tried(0.02) is None
    assert tried(0.5) == "its results are wrong here, by 50% of their norm"
    assert tried(math.nan) == "its results are wrong here, by nan% of their norm"
    assert tried(ModuleNotFoundError("No module named 'x'")) == "it does not import (No module named 'x'); install it"
    assert tried(RuntimeError("no kernel image")) == "it does not run here (RuntimeError: no kernel image)"


def test_a_lack_of_memory_chooses_no_kernel() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        tried(torch.OutOfMemoryError("CUDA out of memory"))


def test_no_nan_is_lost_among_errors() -> None:
    right, nan = torch.ones(3), torch.full((3,), torch.nan)
    assert largest_error([(right, right), (right * 1.5, right)]) == 0.5
    assert all(
        math.isnan(largest_error(pairs)) for pairs in ([(right, right), (nan, right)], [(nan, right), (right, right)])
    )


def without_gradient(
    logits_nv: torch.Tensor, local_n: torch.Tensor, weights_n: torch.Tensor, layers: Layers, **options: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    loss_n, nll_n, grad_nv = torch_loss(logits_nv, local_n, weights_n, layers, z_loss=options["z_loss"], gradient=True)
    return loss_n, nll_n, grad_nv * torch.nan


def test_a_loss_kernel_with_right_losses_and_nan_gradients_is_wrong() -> None:
    assert loss_kernel_error(torch_loss, torch.device("cpu"), torch.float32) == 0
    assert math.isnan(loss_kernel_error(without_gradient, torch.device("cpu"), torch.float32))
