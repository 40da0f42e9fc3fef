"""Hashed n-grams of words, the features of the linear selectors."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import xxhash

from data.filters.blocks.words import add_cjk_spaces

_words = re.compile(r"\w+|[^\w\s]+").findall
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication permutes 64-bit numbers
_MOST_CACHED_WORDS = 1 << 18


class HashedNgrams:
    """Maps texts to the buckets of their n-grams of words, in lower case, with 1 to `longest` words each.

    Marks of punctuation are words, as is each character of Han, Hiragana and Katakana.
    """

    def __init__(self, *, buckets: int, longest: int) -> None:
        self._buckets, self._longest = np.uint64(buckets), longest
        self._cache: dict[str, int] = {}

    def __call__(self, text: str) -> npt.NDArray[np.int64]:
        """Return the bucket of every n-gram, [n-grams], the shorter n-grams first."""
        words = _words(add_cjk_spaces(text.lower()))
        if len(self._cache) > _MOST_CACHED_WORDS:
            self._cache.clear()
        for word in set(words).difference(self._cache):
            self._cache[word] = xxhash.xxh64_intdigest(word.encode(errors="surrogatepass"))
        hashes = np.fromiter(map(self._cache.__getitem__, words), dtype=np.uint64, count=len(words))
        found, ngrams = [hashes], hashes
        for length in range(2, self._longest + 1):
            ngrams = (ngrams[:-1] * _FACTOR) ^ (hashes[length - 1 :] + _FACTOR) if len(ngrams) else ngrams
            found.append(ngrams)
        joined = np.concatenate(found)
        joined = (joined ^ (joined >> np.uint64(32))) * _FACTOR  # so that the low bits depend on all
        buckets: npt.NDArray[np.int64] = ((joined ^ (joined >> np.uint64(29))) % self._buckets).astype(np.int64)
        return buckets
