"""Garbage is collected at steps of a fixed cadence, and at no other time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from train.garbage_collection import GarbageCollection


class Node:
    """An object that refers to itself: only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


def garbage() -> weakref.ref[Node]:
    return weakref.ref(Node())


@pytest.fixture
def collection() -> Iterator[GarbageCollection]:
    collection = GarbageCollection(3)
    yield collection
    collection.close()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_garbage_is_collected_every_so_many_steps(collection: GarbageCollection) -> None:
    collection.end_step(7)
    assert gc.isenabled()
    before = garbage()
    collection.end_step(9)
    assert before() is None
    assert not gc.isenabled()
    frozen = gc.get_freeze_count()
    assert frozen > 10_000
    later = garbage()
    collection.end_step(10)
    assert later() is not None
    collection.end_step(12)
    assert later() is None
    assert gc.get_freeze_count() <= frozen  # a frozen object may have been freed meanwhile


def test_zero_leaves_the_collector_to_python() -> None:
    collection = GarbageCollection(0)
    collection.end_step(1)
    assert gc.isenabled()
    collection.close()
    assert gc.isenabled()
