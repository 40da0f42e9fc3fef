"""Memory for batches, which is used again once no array or tensor refers to it.

A fresh batch would be fresh pages, and the kernel takes many times longer to map them than the loader to fill them.
"""

from __future__ import annotations

import weakref

import numpy as np
from numpy.typing import NDArray


class BufferPool:
    """Lends memory as arrays of bytes, and takes it back when the last view of such an array is gone.

    Each loan wraps the memory in a new array, the lease. The lease is the `base` of every view that is made of it, and
    a tensor holds the array that it was made of, so the lease lives for as long as anything can read the memory. Its
    finalizer then returns the memory. A finalizer may run in any thread; `list.append` and `list.pop` are atomic.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[bytearray]] = {}  # by size

    def take(self, size: int) -> NDArray[np.uint8]:
        """Return an array of `size` bytes with arbitrary content, whose memory nothing else refers to."""
        free = self._free.setdefault(size, [])
        try:
            memory = free.pop()
        except IndexError:
            # Not an array: numpy would make it the base of the views, past the lease, which would end at once.
            memory = bytearray(size)
        lease: NDArray[np.uint8] = np.frombuffer(memory, dtype=np.uint8)
        weakref.finalize(lease, free.append, memory).atexit = False
        return lease
