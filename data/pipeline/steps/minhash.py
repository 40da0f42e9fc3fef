"""MinHash signatures of texts (Broder 1997), by which near duplicates are found."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

from data.config import DeduplicateConfig
from data.filters.blocks.words import add_cjk_spaces
from data.pipeline.steps.simplify import WhitespaceTokenizer, simplify_text

Hashes = npt.NDArray[np.uint64]
_PRIME = np.uint64((1 << 61) - 1)
_PRIME_BITS = np.uint64(61)
_SHINGLES_PER_BLOCK = 128  # so that 112 hashes of each stay in the cache


class MinHash(MinhashDedupSignature):  # type: ignore[misc]
    """datatrove's MinHash signatures, bit for bit if the text is simplified, several times as fast."""

    def __init__(self, config: DeduplicateConfig) -> None:
        minhash = MinhashConfig(
            n_grams=config.ngram_words, num_buckets=config.buckets, hashes_per_bucket=config.hashes_per_bucket
        )
        super().__init__(output_folder=".", config=minhash, language=WhitespaceTokenizer())
        self.simplifies = config.text == "simplified"
        # The hashes of a bucket are combined to one by a random linear form with odd coefficients.
        coefficients = np.random.default_rng(0).integers(1, 1 << 63, size=config.hashes_per_bucket, dtype=np.uint64)
        self.coefficients: Hashes = coefficients * np.uint64(2) + np.uint64(1)

    def get_shingles(self, text: str) -> Hashes:
        """Return the hash of every n-gram of the words of the text, simplified or as it is, [n-grams, 1]."""
        content = (simplify_text(text) if self.simplifies else " ".join(add_cjk_spaces(text).split())).encode()
        spaces = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord(" "))
        starts = np.concatenate(([0], spaces + 1)).tolist() if content else []
        ends = np.concatenate((spaces, [len(content)])).tolist()
        hash_of = xxhash.xxh64_intdigest
        n = self.config.n_grams
        ngrams = zip(starts, ends[n - 1 :], strict=False)  # the last n - 1 words begin no n-gram
        return np.array([hash_of(content[start:end]) for start, end in ngrams], dtype=np.uint64).reshape(-1, 1)

    def signature(self, text: str) -> Hashes:
        """Return the minimum of each hash function over the shingles; empty for a text without shingles."""
        shingles = self.get_shingles(text).reshape(1, -1)
        if not shingles.size:
            return np.empty(0, dtype=np.uint64)
        factor, offset = (parameter.reshape(-1, 1) for parameter in self.parameters)
        minima = np.full(self.num_hashes, np.iinfo(np.uint64).max, dtype=np.uint64)
        for begin in range(0, shingles.shape[1], _SHINGLES_PER_BLOCK):
            # (a x + b) mod (2^61 - 1): the sum of the high bits and the low bits is at most 7 too large.
            values = factor * shingles[:, begin : begin + _SHINGLES_PER_BLOCK]
            values += offset
            high = values >> _PRIME_BITS
            values &= _PRIME
            values += high
            np.minimum(values, values - _PRIME, out=values)
            np.minimum(minima, values.min(axis=1), out=minima)
        return minima

    def bucket_hashes(self, text: str) -> Hashes:
        """Return one hash for each bucket, [buckets]; empty for a text without shingles."""
        signature = self.signature(text)
        if not signature.size:
            return signature
        combined: Hashes = (signature.reshape(self.config.num_buckets, -1) * self.coefficients).sum(axis=1)
        return combined
