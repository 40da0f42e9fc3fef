"""Counts of n-grams over the words of a text, exact or bounded from above by hashes of all n-grams at once."""

from __future__ import annotations

from collections import Counter
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from data.filters.blocks.words import WordFeatures


def most_frequent_characters(words: list[str], n: int) -> int:
    """Count the characters that all occurrences of the most frequent n-gram hold, with the spaces between its words.

    If several n-grams are equally frequent, the first one counts.
    """
    counts = Counter(zip(*(words[offset:] for offset in range(n)), strict=False))
    ngram, times = max(counts.items(), key=itemgetter(1))
    return (sum(map(len, ngram)) + n - 1) * times


def repeated_characters(words: list[str], n: int) -> int:
    """Count the characters of n-grams that occurred before. N-grams are compared without spaces, and do not overlap."""
    ngrams = list(map("".join, zip(*(words[offset:] for offset in range(n)), strict=False)))
    seen: set[str] = set()
    position = characters = 0
    while position < len(ngrams):
        ngram = ngrams[position]
        if ngram in seen:
            characters += len(ngram)
            position += n
        else:
            seen.add(ngram)
            position += 1
    return characters


# An odd multiplier has an inverse modulo 2^64, so the hash of an n-gram can be made independent of its position.
_BASE = 0x9E3779B97F4A7C15
_BASE_INVERSE = pow(_BASE, -1, 1 << 64)


def _powers(base: int, count: int) -> npt.NDArray[np.uint64]:
    values = np.full(count, base, dtype=np.uint64)
    values[0] = 1
    return np.cumprod(values, dtype=np.uint64)


class NgramHashes:
    """Hashes of every n-gram of a text's words, joined by `separator`: equal strings have equal hashes.

    Let c_i be the characters of all words joined, and S_j = sum over i < j of c_i B^i (mod 2^64). The hash of the
    n-gram in characters [a, b) is (S_b - S_a) B^-a, so one pass over the characters serves every n.
    """

    _forward = _powers(_BASE, 1 << 16)
    _backward = _powers(_BASE_INVERSE, 1 << 16)

    def __init__(self, features: WordFeatures, separator: str) -> None:
        joined = separator.join(features.words)
        while len(NgramHashes._forward) <= len(joined):
            NgramHashes._forward = _powers(_BASE, 2 * len(NgramHashes._forward))
            NgramHashes._backward = _powers(_BASE_INVERSE, 2 * len(NgramHashes._backward))
        characters = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        sums = np.zeros(len(joined) + 1, dtype=np.uint64)
        np.cumsum(characters * NgramHashes._forward[: len(joined)], out=sums[1:])
        self._lengths = features.lengths
        self._ends = np.cumsum(features.lengths + len(separator)) - len(separator)
        self._starts = self._ends - features.lengths
        self._sums_at_starts, self._sums_at_ends = sums[self._starts], sums[self._ends]
        self._to_origin = NgramHashes._backward[self._starts]

    def longest_characters(self, n: int) -> int:
        """Return the length of the longest n-gram in characters, with separators."""
        return int(self._characters(n).max())

    def max_times(self, n: int) -> int:
        """Return an upper bound of how often the most frequent n-gram occurs."""
        return int(_runs(np.sort(self._hashes(n)))[1].max())

    def max_characters_of_most_frequent(self, n: int) -> int:
        """Return an upper bound of the characters that all occurrences of the most frequent n-gram hold together."""
        hashes = self._hashes(n)
        order = np.argsort(hashes)
        run_starts, run_lengths = _runs(hashes[order])
        times = run_lengths.max()
        most_frequent = order[run_starts[run_lengths == times]]
        return int(times * self._characters(n)[most_frequent].max())

    def max_repeated_characters(self, n: int) -> int:
        """Return an upper bound of the characters of words that lie in an n-gram that occurred before."""
        hashes = self._hashes(n)
        ordered = np.sort(hashes)
        if not (ordered[1:] == ordered[:-1]).any():
            return 0
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        repeated = order[1:][ordered[1:] == ordered[:-1]]
        edges = np.zeros(len(self._lengths) + 1, dtype=np.int64)
        edges[repeated] += 1  # no position occurs twice in `repeated`
        edges[repeated + n] -= 1
        return int(self._lengths[np.cumsum(edges[:-1]) > 0].sum())

    def _characters(self, n: int) -> npt.NDArray[np.int64]:
        characters: npt.NDArray[np.int64] = self._ends[n - 1 :] - self._starts[: len(self._starts) - n + 1]
        return characters

    def _hashes(self, n: int) -> npt.NDArray[np.uint64]:
        count = len(self._starts) - n + 1
        hashes: npt.NDArray[np.uint64] = self._sums_at_ends[n - 1 :] - self._sums_at_starts[:count]
        hashes *= self._to_origin[:count]
        return hashes


def _runs(ordered: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return where each run of equal values starts in a sorted array, and how long it is."""
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return starts, np.append(starts[1:], len(ordered)) - starts
