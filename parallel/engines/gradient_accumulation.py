"""The sums of a step's gradients: those of small parameters are added in batches, by few kernels.

Autograd hands over each gradient of a micro-batch as it is, in the dtype of the weights. Its parameter's sum, a view of
a flat buffer in float32, takes it: the first gradient of a step is copied there, the others are added. So no kernel
fills the sums with zeros, and none adds to them. On a CPU autograd itself adds gradients in float32 to their sums.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

# On a GPU the gradients of a small parameter wait until there are so many bytes of them: an operation on a list of
# tensors takes as long as they need in memory, where an operation each would take as long as a kernel lasts at least.
# The bound is small enough that a GPU's cache (50 MB in H100 and H200) holds the batch while it is rounded to float32
# and added. On a CPU each gradient is added at once, while the cache has it.
_GPU_BATCH_BYTES = 16 << 20


def batch_bytes(device: torch.device) -> int:
    """Returns the size of a batch of gradients; 0 means that each is added at once."""
    return 0 if device.type == "cpu" else _GPU_BATCH_BYTES


class GradientAccumulation:
    """Sums the gradients of all micro-batches of a step, for the parameters that were registered."""

    def __init__(self, device: torch.device) -> None:
        self._batch_bytes = batch_bytes(device)
        self._sums: list[Tensor] = []
        self._sums_of_autograd: list[Tensor] = []
        self._begun: set[int] = set()  # sums that have a gradient of this step
        self._waiting: dict[int, Tensor] = {}  # gradients by the number of their sum
        self._waiting_bytes = 0

    def register(self, parameter: nn.Parameter, total: Tensor) -> None:
        """Sums the gradients of `parameter` in `total`, a float32 tensor of its shape."""
        if self._batch_bytes == 0 and parameter.dtype == total.dtype:  # no hook: Python would take longer than the sum
            parameter.grad = total
            self._sums_of_autograd.append(total)
            return
        parameter.register_post_accumulate_grad_hook(partial(self._take, len(self._sums)))
        self._sums.append(total)

    def begin_step(self) -> None:
        """Begins new sums. What a step that was dropped has left behind is forgotten."""
        self._begun.clear()
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._sums_of_autograd:
            torch._foreach_zero_(self._sums_of_autograd)

    def end_step(self) -> None:
        """Completes the sums; that of a parameter without a gradient is zero."""
        self._add_waiting()
        if len(self._begun) < len(self._sums):
            torch._foreach_zero_([total for number, total in enumerate(self._sums) if number not in self._begun])

    def _take(self, number: int, parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        parameter.grad = None
        if gradient.nbytes >= self._batch_bytes:
            self._add(number, gradient)
            return
        if number in self._waiting or self._waiting_bytes + gradient.nbytes > self._batch_bytes:
            self._add_waiting()
        self._waiting[number] = gradient
        self._waiting_bytes += gradient.nbytes

    def _add(self, number: int, gradient: Tensor) -> None:
        if number in self._begun:
            self._sums[number].add_(gradient)
        else:
            self._begun.add(number)
            self._sums[number].copy_(gradient)

    def _add_waiting(self) -> None:
        first = [number for number in self._waiting if number not in self._begun]
        further = [number for number in self._waiting if number in self._begun]
        if first:
            torch._foreach_copy_([self._sums[n] for n in first], [self._waiting[n] for n in first])
            self._begun.update(first)
        if further:
            torch._foreach_add_([self._sums[n] for n in further], _widened([self._waiting[n] for n in further]))
        self._waiting.clear()
        self._waiting_bytes = 0


def _widened(gradients: list[Tensor]) -> list[Tensor]:
    """Returns the gradients in float32. torch adds lists of two dtypes one by one, but copies them together."""
    if gradients[0].dtype == torch.float32:
        return gradients
    wide = [torch.empty_like(gradient, dtype=torch.float32) for gradient in gradients]
    torch._foreach_copy_(wide, gradients)
    return wide
