"""Buckets and chunks: nothing is lost or reordered, and a chunk is as large as its limit allows."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.chunks import ScratchBuffers, bucket_by, chunk_slices


@given(sizes=st.lists(st.integers(1, 20), max_size=30), max_size=st.integers(1, 50))
@settings(deadline=None, database=None)
def test_chunks_cover_all_in_order_within_the_limit(sizes: list[int], max_size: int) -> None:
    slices = list(chunk_slices(sizes, max_size))
    assert [size for each in slices for size in sizes[each]] == sizes
    for each in slices:
        assert sum(sizes[each]) <= max_size or len(sizes[each]) == 1
    for each, following in itertools.pairwise(slices):
        assert sum(sizes[each]) + sizes[following.start] > max_size  # the next item would not have fitted


def test_buckets_keep_the_order_of_first_appearance() -> None:
    assert bucket_by([3, 1, 4, 6, 5], lambda x: x % 2) == [[3, 1, 5], [4, 6]]
    assert bucket_by([], lambda x: x) == []


def test_scratch_memory_is_reused_by_name() -> None:
    scratch, like = ScratchBuffers(), torch.empty(1)
    first = scratch.take("a", (4, 6), like)
    assert scratch.take("a", (3, 2), like).data_ptr() == first.data_ptr()
    assert scratch.take("b", (3, 2), like).data_ptr() != first.data_ptr()
    assert scratch.take("a", (2, 2), torch.empty(1, dtype=torch.float64)).dtype == torch.float64
