"""Counts the kernels that operations on meta tensors would launch on a GPU, with the bytes and FLOPs of each.

`KernelTrace` is a mode below autograd: it sees every operation of forward and backward passes as the device would get
it. Meta tensors have shapes and no values, so a step of any size is traced in seconds, on any machine.

An operation is one kernel, with these exceptions. A view, an allocation and a metadata query are none. An operation on
a list of tensors is a kernel for each group that torch's multi_tensor_apply makes. The backward pass of flash attention
is three kernels. A library's own choices are not counted: split products, sorts, and memsets before reductions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch._C._distributed_c10d import FakeWork
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_NO_KERNEL = {
    "_local_scalar_dense", "_unsafe_view", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty",
    "new_empty_strided", "promote_types",
}  # fmt: skip
_COPIES = {"_to_copy", "cat", "clone", "copy_", "stack"}
_PRODUCTS = {"addmm", "addmm_", "baddbmm", "bmm", "mm"}
_BACKWARD_FILE = torch.autograd.graph.__file__
# These read or change only the elements that an index selects.
_INDEXED = {"embedding", "gather", "index_select", "scatter_add_"}
_KERNELS = {"_scaled_dot_product_flash_attention_backward": 3}

# torch's multi_tensor_apply (ATen/native/cuda/MultiTensorApply.cuh): a launch takes at most so many tensors, by
# the number of parallel lists, and so many blocks, each of which works on a part of a tensor.
_TENSORS_OF_A_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
_BLOCKS_OF_A_LAUNCH = 320
_ELEMENTS_OF_A_BLOCK = 65536


HOST_READ = "read by the host"  # name of a copy to the host, for which the host waits


@dataclass(frozen=True)
class Kernel:
    """The kernels of one operation."""

    name: str  # of the operation: mm, add_, ...
    cause: str
    launches: int
    bytes: int  # read and written once, each tensor as it is laid out without repetition
    flops: int  # of matrix products; 0 for others
    dtype: torch.dtype | None  # of the result; of the operands of a product, which may have a wider result

    @property
    def is_product(self) -> bool:
        return self.name in _PRODUCTS

    @property
    def is_copy(self) -> bool:
        """Returns whether it only moves or rounds values."""
        return self.name in _COPIES


class KernelTrace(TorchDispatchMode):
    """Records the kernels of all operations within it.

    `cause_of_file` says the cause of an operation that is called, directly or not, from a file; the innermost file with
    a cause counts. An operation of autograd's backward pass has the cause of its forward operation.
    """

    def __init__(self, cause_of_file: Callable[[Path], str | None]) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self._cause_of_file = cause_of_file
        self._causes_by_file: dict[str, str | None] = {}
        self._causes_by_node: dict[int, str] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "c10d":  # of one rank: nothing is sent
            return args[0], FakeWork.boxed(FakeWork())
        out = _value_on_host(func, args, kwargs)
        if out is None:
            out = func(*args, **kwargs)
            self._record(func, args, kwargs, out)
        else:
            read = args[0]
            self.kernels.append(Kernel(HOST_READ, self._cause(), 1, _size(read), 0, read.dtype))
        return out

    def _record(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        name = func._schema.name.split("::")[1]
        results = _tensors(out)
        if name in _NO_KERNEL or _is_view(func) or not any(result.is_meta for result in results or _tensors(args)):
            self._cause()  # a view's backward pass may be a kernel
            return
        flops = flop_registry[func._overloadpacket](*_without_dtypes(args), out_val=out) if name in _WITH_FLOPS else 0
        self.kernels.append(
            Kernel(
                name=name,
                cause=self._cause(),
                launches=_launches(name, args),
                bytes=_bytes_moved(func, name, args, kwargs, results),
                flops=flops // 2 if "attention" in name else flops,  # the causal half
                dtype=_tensors(args)[-1].dtype if name in _PRODUCTS else results[0].dtype if results else None,
            )
        )

    def _cause(self) -> str:
        node = torch._C._current_autograd_node()
        cause = self._cause_of_stack()
        if node is not None:
            return cause or self._causes_by_node.get(node._sequence_nr(), "other")
        # Autograd has made the operation's node already, if it has one, and will make the next with the next number.
        if cause is not None:
            self._causes_by_node[torch.autograd._get_sequence_nr() - 1] = cause
        return cause or "other"

    def _cause_of_stack(self) -> str | None:
        frame = sys._getframe(3)
        while frame is not None:
            file = frame.f_code.co_filename
            if file == _BACKWARD_FILE:
                return None  # what called the backward pass is not the cause of its kernels
            if file not in self._causes_by_file:
                self._causes_by_file[file] = self._cause_of_file(Path(file))
            if (cause := self._causes_by_file[file]) is not None:
                return cause
            frame = frame.f_back  # type: ignore[assignment]
        return None


_WITH_FLOPS = {
    *_PRODUCTS - {"addmm_"},
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_backward",
}


def _value_on_host(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Returns ones where a step reads a value, which a meta tensor does not have; None for another operation."""
    name = func._schema.name
    if name == "aten::_local_scalar_dense" and args[0].is_meta:
        return 1.0
    if name == "aten::_to_copy" and args[0].is_meta and kwargs.get("device") == torch.device("cpu"):
        return torch.ones(args[0].shape, dtype=args[0].dtype)
    return None


def _without_dtypes(args: Sequence[Any]) -> list[Any]:
    """Returns the arguments without the dtype of the result, which no formula for FLOPs takes."""
    return [arg for arg in args if not isinstance(arg, torch.dtype)]


def _is_view(func: Any) -> bool:
    return any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []


def _launches(name: str, args: Sequence[Any]) -> int:
    lists = [arg for arg in args if isinstance(arg, list) and arg and isinstance(arg[0], Tensor)]
    if not name.startswith(("_foreach", "_fused")):
        return _KERNELS.get(name, 1)
    launches = tensors = blocks = 0
    depth = sum(len(each) == len(lists[0]) and each[0].dim() > 0 for each in lists)
    for tensor in lists[0]:
        tensors += 1
        blocks += -(-tensor.numel() // _ELEMENTS_OF_A_BLOCK)
        while blocks > _BLOCKS_OF_A_LAUNCH:
            launches, tensors, blocks = launches + 1, 1, blocks - _BLOCKS_OF_A_LAUNCH
        if tensors == _TENSORS_OF_A_LAUNCH[depth]:
            launches, tensors, blocks = launches + 1, 0, 0
    return launches + (blocks > 0)


def _bytes_moved(func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any], results: Sequence[Tensor]) -> int:
    """Returns the bytes that an operation must read and write, if no cache holds them."""
    if name in _INDEXED:
        index = next(tensor for tensor in _tensors(args) if tensor.dtype == torch.int64)
        moved = results[0].numel() if name != "scatter_add_" else index.numel()
        return 2 * moved * results[0].element_size() + _size(index)
    read: dict[int, Tensor] = {}
    written: dict[int, Tensor] = {id(result): result for result in results}
    for place, argument in enumerate(func._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        changed = argument.alias_info is not None and argument.alias_info.is_write
        for tensor in _tensors(value):
            if changed:
                written[id(tensor)] = tensor
            if not (changed and (argument.is_out or name in ("copy_", "fill_", "zero_"))):
                read[id(tensor)] = tensor
    return sum(map(_size, read.values())) + sum(map(_size, written.values()))


def _size(tensor: Tensor) -> int:
    """Returns the bytes of a tensor's distinct elements: an expanded dim counts once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else 1
    return elements * tensor.element_size()
