"""The order in which a source's windows are seen: a pure function of (seed, source, sample number).

Sample i of a source is window `permute(i mod windows)` of epoch `i // windows`. The permutation is a Feistel network
over two digits, a number of Z_a x Z_b with a * b just above the size, in which each round adds a keyed hash of one
digit to the other; numbers that land outside the size walk on along their cycle (Black and Rogaway, "Ciphers with
arbitrary finite domains", CT-RSA 2002, sections 4 and 5). So it needs no memory, whatever the size, and any sample can
be asked for at once. Nothing here is secret: the keys only make the order look random.

Shapes: arrays are [r], one entry per row.
"""

from __future__ import annotations

import hashlib
import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Int64s: TypeAlias = NDArray[np.int64]
UInt64s: TypeAlias = NDArray[np.uint64]

# Each digit is changed four times: four rounds in all look random to Luby and Rackoff's adversary where the domain is
# large. In a small one a round has few values to choose among: with 8 rounds the orders of 5 windows are not equally
# likely, with 16 they are, as far as 24,000 draws can tell.
_ROUNDS, _ROUNDS_SMALL, _SMALL = 8, 16, 2**16
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, the increment of SplitMix64
_MASK = 2**64 - 1
_LARGEST = 2**62  # of a size, so that sums of digits and products stay within 64 bits


def mix64(values: UInt64s) -> UInt64s:
    """A bijection of 64-bit numbers that looks random: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def stable_key(*parts: int | str) -> int:
    """A 64-bit number that depends on the parts alone: the same on every machine and in every version."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def permute(index: Int64s, *, size: int, keys: UInt64s) -> Int64s:
    """Where a keyed permutation of range(size) sends `index` [r]; `keys` [r] choose the permutation, row by row.

    For one key it is a bijection of range(size); a key per row lets a batch straddle two epochs. size <= 2^62.
    """
    assert 1 <= size <= _LARGEST, f"{size} windows are outside 1 to 2^62"
    result = index.astype(np.uint64)
    keys = keys.astype(np.uint64)
    outside = np.arange(len(result))
    while len(outside):  # at most about one number in sqrt(size) needs a second turn
        turned = _feistel(result[outside], size, keys[outside])
        result[outside] = turned
        outside = outside[turned >= np.uint64(size)]
    return result.astype(np.int64)


def _feistel(values: UInt64s, size: int, keys: UInt64s) -> UInt64s:
    """A bijection of range(a * b), where a * b >= size is less than size + sqrt(size) + 1."""
    a = math.isqrt(size - 1) + 1  # the root, rounded up
    b = -(-size // a)
    left, right = np.divmod(values, np.uint64(b))
    for round_number in range(_ROUNDS_SMALL if size < _SMALL else _ROUNDS):
        round_key = keys + np.uint64((round_number + 1) * _GOLDEN & _MASK)
        if round_number % 2 == 0:
            left = (left + mix64(right + round_key) % np.uint64(a)) % np.uint64(a)
        else:
            right = (right + mix64(left + round_key) % np.uint64(b)) % np.uint64(b)
    return left * np.uint64(b) + right


class Order:
    """The order of one source's windows under one seed, in all epochs.

    It hangs on the source's name and number of windows, not on its place among the sources: adding a source to a
    mixture leaves the orders of the others as they were.
    """

    def __init__(self, *, seed: int, source: str, windows: int) -> None:
        self.windows = windows
        self._key = stable_key("order", seed, source)

    def windows_of(self, samples: Int64s) -> Int64s:
        """The window numbers [r] of sample numbers [r]: each run of `windows` samples holds every window once."""
        epochs, index = np.divmod(samples, self.windows)
        keys = mix64(np.uint64(self._key) + epochs.astype(np.uint64) * np.uint64(_GOLDEN))
        return permute(index, size=self.windows, keys=keys)
