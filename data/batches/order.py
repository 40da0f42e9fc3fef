"""The order in which a source's sequences are drawn: a pure function of (seed, source, sample number).

With n sequences, sample i of a source is sequence `permute(i mod n)` of epoch `i // n`. The permutation is a Feistel
network over two digits, a number of Z_a x Z_b with a * b just above n, in which each round adds a keyed hash of one
digit to the other. Numbers that land outside the range walk on along their cycle (Black and Rogaway, "Ciphers with
arbitrary finite domains", CT-RSA 2002, sections 4 and 5). So it needs no memory, whatever the size, and any sample can
be looked up directly. Nothing here is secret: the keys only make the order look random.

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

# Each digit is changed four times. Four rounds in all look random to Luby and Rackoff's adversary if the domain is
# large. In a small domain a round has few values to choose among: with 8 rounds the orders of 5 sequences are not
# equally likely, and with 16 they are, as far as 24,000 draws can tell.
_ROUNDS, _ROUNDS_SMALL, _SMALL = 8, 16, 2**16
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, the increment of SplitMix64
_MASK = 2**64 - 1
_LARGEST_SIZE = 2**62  # so that sums of digits and products stay within 64 bits


def mix64(values: UInt64s) -> UInt64s:
    """Apply a bijection of 64-bit numbers that looks random: SplitMix64's finaliser (Steele et al., OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def stable_key(*parts: int | str) -> int:
    """Return a 64-bit hash of the parts, which is the same on every machine and in every version."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def permute(index: Int64s, *, size: int, keys: UInt64s) -> Int64s:
    """Return the images [r] of `index` [r] under keyed permutations of range(size); `keys` [r] choose one for each row.

    For one key it is a bijection of range(size). A key per row lets a batch straddle two epochs. size <= 2^62.
    """
    assert 1 <= size <= _LARGEST_SIZE, f"{size} sequences are outside 1 to 2^62"
    result = index.astype(np.uint64)
    keys = keys.astype(np.uint64)
    outside = np.arange(len(result))
    while len(outside):  # at most about one number in sqrt(size) needs a second pass
        images = _feistel(result[outside], size, keys[outside])
        result[outside] = images
        outside = outside[images >= np.uint64(size)]
    return result.astype(np.int64)


def _feistel(values: UInt64s, size: int, keys: UInt64s) -> UInt64s:
    """Apply a bijection of range(a * b), where size <= a * b < size + sqrt(size) + 1."""
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


class SequenceOrder:
    """The order of one source's `size` sequences under one seed, in all epochs.

    It depends on the source's name and number of sequences, not on its position among the sources, so adding a source
    to a mixture leaves the orders of the others unchanged.
    """

    def __init__(self, *, seed: int, source: str, size: int) -> None:
        self.size = size
        self._key = stable_key("order", seed, source)

    def sequences_of(self, samples: Int64s) -> Int64s:
        """Return the sequence numbers [r] of sample numbers [r]. The `size` samples of an epoch are all different."""
        epochs, index = np.divmod(samples, self.size)
        keys = mix64(np.uint64(self._key) + epochs.astype(np.uint64) * np.uint64(_GOLDEN))
        return permute(index, size=self.size, keys=keys)
