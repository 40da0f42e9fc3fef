"""The pool's memory is lent to one user at a time, and comes back when the last array or tensor is gone.

If one of these fails after an upgrade of numpy, torch or Python, batches that are held may change or memory may grow:
the pool relies on views keeping their `base` alive, and on finalizers that run when the last reference goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from data.batches.buffers import BufferPool

SIZE = 4096
HOLDERS: dict[str, Callable[[Any], Any]] = {
    "slice": lambda lease: lease[8:16],
    "view of another type": lambda lease: lease.view(np.int64),
    "reshaped slice of a view": lambda lease: lease[64:128].view(np.int64).reshape(2, 4),
    "slice of a slice": lambda lease: lease[8:][8:][8:],
    "transposed": lambda lease: lease.reshape(64, 64).T,
    "tensor": lambda lease: torch.from_numpy(lease[8:16].view(np.int64)),
    "view of a tensor": lambda lease: torch.from_numpy(lease.view(np.int64)).view(2, -1)[1],
    "detached tensor": lambda lease: torch.from_numpy(lease).detach(),
    "memoryview": memoryview,
    "array of an array": np.asarray,
    "iterator": iter,
}


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.ctypes.data)


@pytest.mark.parametrize("holder", HOLDERS)
def test_memory_that_something_refers_to_is_not_lent_again(holder: str) -> None:
    pool = BufferPool()
    lease = pool.take(SIZE)
    lent = address(lease)
    held = HOLDERS[holder](lease)
    del lease
    others = [pool.take(SIZE) for _ in range(3)]
    assert lent not in map(address, others), f"a {holder} no longer keeps its memory"
    del held
    assert address(pool.take(SIZE)) == lent, f"memory does not come back at once when a {holder} is gone"


def test_memory_comes_back_by_size() -> None:
    pool = BufferPool()
    small, large = pool.take(64), pool.take(SIZE)
    addresses = address(small), address(large)
    del small, large
    assert (address(pool.take(64)), address(pool.take(SIZE))) == addresses
    assert len(pool.take(64)) == 64


def test_a_lease_outlives_its_pool() -> None:
    pool = BufferPool()
    lease = pool.take(SIZE)
    lease[:] = 7
    del pool
    np.full(SIZE, 1, dtype=np.uint8)
    assert int(lease.sum()) == 7 * SIZE
