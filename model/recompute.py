"""Activations that are not kept for the backward pass, but computed again in it.

`none` keeps all. `selective` recomputes what is cheap: the outputs of norms and activation functions, and copies for a
layout (what remains are outputs of matrix products and of attention). `full` keeps a block's input only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, Protocol

import torch
from torch import Tensor

Recompute = Literal["none", "selective", "full"]


class RecomputeContext(Protocol):
    """`with save_or_recompute(x, again): ...`: what the body saves of x for backward may be recomputed by `again()`."""

    def __call__(self, x: Tensor, again: Callable[[], Tensor]) -> AbstractContextManager[None]: ...


def saving(x: Tensor, again: Callable[[], Tensor]) -> AbstractContextManager[None]:
    """Saves x for the backward pass, as autograd does."""
    return nullcontext()


def recomputing(x: Tensor, again: Callable[[], Tensor]) -> AbstractContextManager[None]:
    """Drops what the body saves of x (itself or a view), and computes it again when the backward pass needs it.

    `again` must return x to the bit, from tensors that are kept anyway. It works under any layer that saves its input
    by autograd's `save_for_backward`: nothing but `again` runs twice, and no collective does. Under torch.compile this
    does nothing, since its partitioner recomputes cheap operations by itself.
    """
    return nullcontext() if torch.compiler.is_compiling() else _recomputing(x, again)


@contextmanager
def _recomputing(x: Tensor, again: Callable[[], Tensor]) -> Iterator[None]:
    recipe = _Recipe(again)
    # Autograd hands the hooks other Tensor objects over x's memory, so `is` does not find x, and torch has no public
    # test for two tensors that share memory. While x lives, which is until this context ends, no other storage can have
    # its address. tests/model/test_recompute.py fails if a release of torch saves copies instead.
    address = x.untyped_storage().data_ptr()

    def pack(saved: Tensor) -> Tensor | _View:
        if saved.untyped_storage().data_ptr() == address:
            return _View(recipe, saved)
        # What an operator saves of its own output must not refer to the operator: such a cycle is freed late. A
        # parameter stays itself, since ZeRO 3 exchanges what it holds.
        return saved if saved.is_leaf else saved.detach()

    def unpack(packed: Tensor | _View) -> Tensor:
        return packed if isinstance(packed, Tensor) else packed.tensor()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


class _Recipe:
    """Computes a tensor again: once, for all the views that were saved of it."""

    def __init__(self, again: Callable[[], Tensor]) -> None:
        self.again = again
        self.views = 0
        self.taken = 0
        self.tensor: Tensor | None = None

    def take(self) -> Tensor:
        """Returns the tensor, which is freed when each view has been taken: it lives for one step of backward."""
        if self.tensor is None:
            with torch.no_grad():
                self.tensor = self.again()
        tensor = self.tensor
        self.taken += 1
        if self.taken == self.views:
            self.tensor, self.taken = None, 0
        return tensor


class _View:
    """The shape, strides and offset of a tensor that was saved."""

    def __init__(self, recipe: _Recipe, saved: Tensor) -> None:
        self.recipe = recipe
        self.layout = (saved.shape, saved.stride(), saved.storage_offset())
        recipe.views += 1

    def tensor(self) -> Tensor:
        return self.recipe.take().as_strided(*self.layout)
