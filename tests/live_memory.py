"""Counts the bytes of live tensors: what a forward pass saves for its backward pass, seen from outside autograd."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Notes every tensor that an operator makes in the body; those that still live can be counted after it."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0  # bytes alive after whichever operator left the most

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor) or tensor.is_meta:
                continue
            if tensor.untyped_storage()._cdata not in given:
                storage = tensor.untyped_storage()
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.most = max(self.most, self.alive())
        return result

    def alive(self) -> int:
        """Bytes of the tensors that were made and are still held by anything."""
        self._made = {key: made for key, made in self._made.items() if not made[0].expired()}
        return sum(size for _, size in self._made.values())


def bytes_kept(forward: Callable[[], Tensor]) -> int:
    """Returns the bytes that autograd saves after `forward`, its output included."""
    with LiveMemory() as memory:
        output = forward()
    assert output.requires_grad
    kept = memory.alive()
    del output
    assert memory.alive() == 0, "something outlives the graph"
    return kept


def bytes_of_tensors() -> int:
    """Bytes of all storages that a tensor object of this process holds now, each once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, nn.Parameter) and thing.device.type != "meta":
            storage = thing.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())
