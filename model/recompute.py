"""Activations that are not kept for the backward pass but made again.

`none` keeps all. `selective` makes again what is cheap: the outputs of norms and activations, and copies for a layout
(what is left are outputs of matrix products and of attention). `full` keeps a block's input only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, Protocol

import torch
from torch import Tensor

Recompute = Literal["none", "selective", "full"]


class RecomputeContext(Protocol):
    """`with forget(x, again): ...`: what the body saves of x for its backward pass may be made anew by `again()`."""

    def __call__(self, x: Tensor, again: Callable[[], Tensor]) -> AbstractContextManager[None]: ...


def saving(x: Tensor, again: Callable[[], Tensor]) -> AbstractContextManager[None]:
    """Forgets nothing."""
    return nullcontext()


def recomputing(x: Tensor, again: Callable[[], Tensor]) -> AbstractContextManager[None]:
    """What the body saves of x (itself or a view) is dropped, and made again when the backward pass asks for it.

    `again` must give x to the bit, from tensors that are kept anyway. Works under any layer that saves its input by
    autograd's `save_for_backward`: nothing runs twice but `again`, no collective does. Under torch.compile this
    does nothing: its partitioner makes cheap things again by itself.
    """
    return nullcontext() if torch.compiler.is_compiling() else _forgetting(x, again)


@contextmanager
def _forgetting(x: Tensor, again: Callable[[], Tensor]) -> Iterator[None]:
    recipe = _Recipe(again)
    address = x.untyped_storage().data_ptr()

    def pack(saved: Tensor) -> Tensor | _View:
        if saved.untyped_storage().data_ptr() == address:
            return _View(recipe, saved)
        # What an operator saves of its own output must not lead back to the operator: such a cycle is freed late. A
        # parameter stays itself, since ZeRO 3 exchanges what it holds.
        return saved if saved.is_leaf else saved.detach()

    def unpack(packed: Tensor | _View) -> Tensor:
        return packed if isinstance(packed, Tensor) else packed.tensor()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


class _Recipe:
    """How a tensor is made again: once, for all the views that were saved of it."""

    def __init__(self, again: Callable[[], Tensor]) -> None:
        self.again = again
        self.views = 0
        self.asked = 0
        self.made: Tensor | None = None

    def take(self) -> Tensor:
        """The tensor; let go when each view has been asked for, so that it lives no longer than a step of backward."""
        if self.made is None:
            with torch.no_grad():
                self.made = self.again()
        made = self.made
        self.asked += 1
        if self.asked == self.views:
            self.made, self.asked = None, 0
        return made


class _View:
    """What was saved of the tensor: its shape, strides, and offset."""

    def __init__(self, recipe: _Recipe, saved: Tensor) -> None:
        self.recipe = recipe
        self.layout = (saved.shape, saved.stride(), saved.storage_offset())
        recipe.views += 1

    def tensor(self) -> Tensor:
        return self.recipe.take().as_strided(*self.layout)
