"""Every autograd.Function returns tensors that no other operation returned before: torch.compile in 2.11 needs that.

There, a forward pass that returns the result of a cast that changes nothing, or of an in-place operation, gets a
gradient of zero when it is compiled (model/precision.py).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from processes import run_ranks
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model.cross_entropy import _CrossEntropy, _Plan
from model.layers import TorchLayers
from model.loss_kernels import torch_loss
from model.norms import _LayerNorm, _RMSNorm
from model.position import RoPEConfig, _Rotate

ROOT = Path(__file__).parents[1]
ROOMS = ("model", "parallel", "optim", "train", "launcher")


def functions_in_the_source() -> Iterator[str]:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and any(
                    isinstance(base, ast.Attribute) and base.attr == "Function" for base in node.bases
                ):
                    yield node.name


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def norm_inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return drawn(3, 2, 8, dtype=dtype), drawn(8, dtype=torch.promote_types(dtype, torch.float32))


# The arguments of each Function's forward pass after `ctx`, for a dtype.
ARGUMENTS: dict[type[torch.autograd.Function], Callable[[torch.dtype], tuple[Any, ...]]] = {
    _RMSNorm: lambda dtype: (*norm_inputs(dtype), 1e-5),
    _LayerNorm: lambda dtype: (*norm_inputs(dtype), None, 1e-5),
    _Rotate: lambda dtype: (drawn(4, 2, 3, 8, dtype=dtype), *RoPEConfig().rotation(torch.arange(4).expand(2, 4), 8)),
    _CrossEntropy: lambda dtype: (
        *(drawn(6, 8, dtype=dtype), drawn(11, 8, dtype=dtype), torch.arange(6), torch.full((6,), 0.25)),
        _Plan(TorchLayers(), torch_loss, 0.0, 4),
    ),
}


class ReturnedArguments(TorchFunctionMode):
    """Collects the tensors that an operation returned although it was given them: unchanged, or changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        given = [*args, *(kwargs or {}).values()]
        if isinstance(result, Tensor) and any(each is result for each in given):
            self.tensors.append(result)
        return result


def reused_outputs(function: type[torch.autograd.Function], arguments: tuple[Any, ...]) -> int:
    """Returns how many outputs of a forward pass share memory with what an operation returned of its arguments."""
    ctx = SimpleNamespace(needs_input_grad=(True,) * len(arguments))
    ctx.save_for_backward = ctx.mark_non_differentiable = lambda *tensors: None
    with ReturnedArguments() as returned, torch.no_grad():
        outputs = function.forward(ctx, *arguments)
    reused = {tensor.untyped_storage().data_ptr() for tensor in returned.tensors}
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return sum(output.untyped_storage().data_ptr() in reused for output in outputs)


def reused_outputs_of_all() -> dict[str, int]:
    return {
        f"{function.__name__} in {dtype}": reused_outputs(function, arguments(dtype))
        for function, arguments in ARGUMENTS.items()
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
    }


def test_no_forward_pass_returns_what_an_operation_returned_before() -> None:
    (found,) = run_ranks(1, reused_outputs_of_all)
    assert set(found.values()) == {0}, found


def test_every_function_is_tried() -> None:
    assert sorted(functions_in_the_source()) == sorted(function.__name__ for function in ARGUMENTS)


class CastsForNothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 2).to(x.dtype)


class EndsInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 2).mul_(1.0)


class ChangesAPart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x * 2
        y[..., :1].add_(1.0)
        return y


@pytest.mark.parametrize("function", [CastsForNothing, EndsInPlace, ChangesAPart])
def test_what_torch_cannot_compile_is_found(function: type[torch.autograd.Function]) -> None:
    assert reused_outputs(function, (drawn(3, 4, dtype=torch.float32),)) == 1
