"""Selectors that tell targets from the pool by hashed n-grams of words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from data.selectors.base import SelectorConfig

if TYPE_CHECKING:
    from data.selectors.blocks.hashed_ngrams import HashedNgrams


def buckets_field(default: int) -> Any:
    """Declares the number of buckets; its default is that of the method."""
    return Field(default, ge=2, le=2**24, description="Buckets into which n-grams are hashed.")


class TargetNgramsConfig(SelectorConfig):
    """Learns from the n-grams of the targets and of a sample of the pool."""

    buckets: int = buckets_field(10_000)
    ngram_words: int = Field(2, ge=1, le=5, description="Words of the longest n-gram.")
    sample_bytes: int = Field(20_000_000, ge=1, description="Bytes of text of the sample that stands for the pool.")

    @property
    def uses_targets(self) -> bool:
        return True

    @property
    def pool_sample_bytes(self) -> int:
        return self.sample_bytes

    def hashed_ngrams(self) -> HashedNgrams:
        """Return what maps a text to the buckets of its n-grams."""
        from data.selectors.blocks.hashed_ngrams import HashedNgrams

        return HashedNgrams(buckets=self.buckets, longest=self.ngram_words)
