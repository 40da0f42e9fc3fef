"""Micro-batches that report when each of them is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class Tracked(Sequence[T]):
    """The same parts; before each is taken, `before_each` gets its index, from 0, and the number of parts."""

    def __init__(self, parts: Sequence[T], before_each: Callable[[int, int], None]) -> None:
        self._parts = parts
        self._before_each = before_each

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self._parts[index]

    def __iter__(self) -> Iterator[T]:
        parts = iter(self._parts)
        for index in range(len(self._parts)):
            self._before_each(index, len(self._parts))
            yield next(parts)  # without a name, which would keep it until the next one is taken
