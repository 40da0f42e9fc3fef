"""Distinct n-grams and the targets that have them, compared with sets of substrings."""

from __future__ import annotations

import numpy as np
from filter_texts import ARTICLE
from hypothesis import given, settings
from hypothesis import strategies as st

from data.selectors.compression.compressors import Gzip
from data.selectors.compression.ncd import make_target_chunks
from data.selectors.compression.ngrams import NUM_BUCKETS, ORDERS, DistinctNgrams, order_of, target_shares


def substrings(content: bytes, length: int) -> set[bytes]:
    return {content[start : start + length] for start in range(len(content) - length + 1)}


def bucket_of(ngram: bytes) -> int:
    """The bucket of a text that is one n-gram."""
    return int(DistinctNgrams().buckets(ngram)[-1])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([b"ab", b"abc", b"\xff", b"the ", b"x"]), max_size=40).map(b"".join))
def test_each_distinct_ngram_has_its_bucket_once(content: bytes) -> None:
    expected = {bucket_of(ngram) for length in ORDERS for ngram in substrings(content, length)}
    ngrams = DistinctNgrams()
    ngrams.buckets(b"what a text before has left behind, abcabcabc" * 5)
    buckets = ngrams.buckets(content).tolist()
    assert sorted(buckets) == sorted(expected)
    assert all(0 <= bucket < NUM_BUCKETS for bucket in buckets)


def test_buckets_collide_rarely_and_say_their_order() -> None:
    content = ARTICLE.encode()
    orders = order_of(DistinctNgrams().buckets(content)).tolist()
    for number, length in enumerate(ORDERS):
        assert 0 <= len(substrings(content, length)) - orders.count(number) <= 5


def test_shares_count_each_target_once() -> None:
    targets = [b"abcabcabc", b"abcd", b"xyz", b"xyzxyz"]
    shares = target_shares(make_target_chunks(Gzip(6), targets))
    found = [shares[bucket_of(ngram)] for ngram in (b"abc", b"bcd", b"xyz", b"qqq")]
    np.testing.assert_allclose(found, [0.5, 0.25, 0.5, 0])
