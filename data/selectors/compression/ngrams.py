"""Hashed byte n-grams: the distinct ones of a text, and the share of the targets that has each."""

from __future__ import annotations

from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from data.selectors.compression.ncd import TargetChunks

Buckets: TypeAlias = npt.NDArray[np.intp]
ORDERS = (3, 5)  # bytes: 3 is the shortest match of deflate; more orders improve no estimate
_BITS = 16  # of a hash: a hundred targets of 2 kB share buckets, which costs the estimate nothing; 17 are slower
NUM_BUCKETS = len(ORDERS) << _BITS
_MULTIPLIER = np.uint32(0x9E3779B1)
_FINISH = np.uint32(0x85EBCA6B)
_SHIFT = np.uint32(32 - _BITS)


class DistinctNgrams:
    """Finds the distinct n-grams of texts, in memory that it keeps between texts."""

    @cached_property
    def _last_seen(self) -> npt.NDArray[np.int32]:
        return np.zeros(NUM_BUCKETS, dtype=np.int32)

    def buckets(self, content: bytes) -> Buckets:
        """Return the bucket of each distinct n-gram, those of the shortest order first.

        An n-gram is taken where it occurs last: only there does its bucket hold its own position.
        """
        codes = np.frombuffer(content, dtype=np.uint8).astype(np.uint32)
        hashes = codes
        of_orders: list[npt.NDArray[np.uint32]] = []
        for length in range(2, ORDERS[-1] + 1):
            hashes = hashes[:-1] * _MULTIPLIER + codes[length - 1 :]
            if length in ORDERS:
                offset = np.uint32(len(of_orders) << _BITS)
                of_orders.append(((hashes * _FINISH) >> _SHIFT) + offset)
        buckets = np.concatenate(of_orders).astype(np.intp)
        positions = np.arange(len(buckets), dtype=np.int32)
        self._last_seen[buckets] = positions
        distinct: Buckets = buckets[self._last_seen[buckets] == positions]
        return distinct


def target_shares(targets: TargetChunks) -> npt.NDArray[np.float32]:
    """Return for each bucket the share of the targets that has one of its n-grams, [buckets]."""
    shares = np.zeros(NUM_BUCKETS)
    ngrams = DistinctNgrams()
    for content, weight in zip(targets.contents, targets.weights, strict=True):
        shares[ngrams.buckets(content)] += weight
    return shares.astype(np.float32)


def order_of(buckets: Buckets) -> Buckets:
    """Return the number of each bucket's order in ORDERS."""
    return buckets >> _BITS
