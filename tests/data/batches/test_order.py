"""The order of sequences is a bijection in every epoch, by a scalar implementation of its inverse."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from data.batches.order import SequenceOrder, mix64, permute, stable_key

KEY = 1442417752630273233
ORDER = [3, 8, 1, 4, 7, 6, 5, 2, 0, 9, 0, 2, 5, 1, 9, 4, 8, 6, 7, 3]
FAR = [26724618725, 433246913641]

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def scalar_mix(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def scalar_inverse(value: int, size: int, key: int) -> int:
    """Invert the network with Python's integers, along the cycle until the value is inside the size."""
    a = math.isqrt(size - 1) + 1
    b = -(-size // a)
    while True:
        left, right = divmod(value, b)
        for number in reversed(range(16 if size < 2**16 else 8)):
            round_key = key + (number + 1) * GOLDEN & MASK
            if number % 2 == 0:
                left = (left - scalar_mix(right + round_key & MASK) % a) % a
            else:
                right = (right - scalar_mix(left + round_key & MASK) % b) % b
        value = left * b + right
        if value < size:
            return value


def keys_of(key: int, rows: int) -> np.ndarray:
    return np.full(rows, key, dtype=np.uint64)


def test_mix64_is_splitmix64() -> None:
    """The published outputs of SplitMix64 seeded with 1234567."""
    states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * np.uint64(GOLDEN)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert mix64(states).tolist() == [*expected, 16408922859458223821]


@given(size=st.integers(1, 4000), key=st.integers(0, MASK))
@settings(max_examples=60, deadline=None)
def test_small_sizes_are_bijections(size: int, key: int) -> None:
    image = permute(np.arange(size), size=size, keys=keys_of(key, size))
    assert np.array_equal(np.sort(image), np.arange(size))


@given(data=st.data(), size=st.integers(1, 10**12), key=st.integers(0, MASK))
@settings(max_examples=80, deadline=None)
def test_any_size_has_an_inverse(data: st.DataObject, size: int, key: int) -> None:
    """The inverse finds every number from its image, so no two numbers share an image."""
    inside = st.integers(0, size - 1)
    index = np.array(sorted({0, size - 1, *data.draw(st.lists(inside, min_size=5, max_size=40))}))
    image = permute(index, size=size, keys=keys_of(key, len(index)))
    assert image.min() >= 0
    assert image.max() < size
    assert [scalar_inverse(value, size, key) for value in image.tolist()] == index.tolist()


def test_largest_size() -> None:
    size = 2**62
    index = np.array([0, 1, size // 2, size - 1])
    image = permute(index, size=size, keys=keys_of(3, 4))
    assert [scalar_inverse(value, size, 3) for value in image.tolist()] == index.tolist()


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_every_permutation_is_as_likely(size: int) -> None:
    """Over 24,000 keys, all size! orders occur with equal frequency, by a chi-square test."""
    draws = 24_000
    keys = mix64(np.repeat(np.arange(draws, dtype=np.uint64), size))
    images = permute(np.tile(np.arange(size), draws), size=size, keys=keys).reshape(draws, size)
    code = images @ (size ** np.arange(size))
    counts = [np.count_nonzero(code == np.dot(p, size ** np.arange(size))) for p in itertools.permutations(range(size))]
    assert sum(counts) == draws
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("size", [1000, 10**9])
def test_looks_random(size: int) -> None:
    """Images fill the range evenly, and images of neighbours are uncorrelated."""
    index = np.arange(min(size, 100_000))
    image = permute(index, size=size, keys=keys_of(77, len(index)))
    cells = np.bincount(image * 50 // size, minlength=50)
    if len(index) < size:
        assert stats.chisquare(cells).pvalue > 1e-3
    bound = 4 / math.sqrt(len(index))
    assert abs(np.corrcoef(index, image)[0, 1]) < bound
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < bound
    assert stats.chisquare(np.bincount(np.diff(image) % size * 50 // size, minlength=50)).pvalue > 1e-3


@given(sequences=st.integers(1, 50), seed=st.integers(0, 2**40), first=st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_every_epoch_has_every_sequence_once(sequences: int, seed: int, first: int) -> None:
    """This also holds if one call straddles epochs."""
    order = SequenceOrder(seed=seed, source="a", size=sequences)
    seen = np.concatenate(
        [order.sequences_of(np.arange(first)), order.sequences_of(np.arange(first, 5 * sequences + first))]
    )
    for epoch in seen[: 5 * sequences].reshape(5, sequences):
        assert sorted(epoch.tolist()) == list(range(sequences))


def test_epochs_seeds_and_sources_have_orders_of_their_own() -> None:
    samples = np.arange(200)
    base = SequenceOrder(seed=1, source="a", size=100).sequences_of(samples)
    assert not np.array_equal(base[:100], base[100:])
    assert not np.array_equal(base, SequenceOrder(seed=2, source="a", size=100).sequences_of(samples))
    assert not np.array_equal(base, SequenceOrder(seed=1, source="b", size=100).sequences_of(samples))
    # Independent orders agree on one sequence in a hundred.
    assert np.count_nonzero(base[:100] == base[100:]) < 8


def test_the_order_does_not_change_between_versions() -> None:
    """A run that resumes under a newer lehr must continue in the order that it began with."""
    assert stable_key("order", 1, "a") == KEY
    assert SequenceOrder(seed=1, source="a", size=10).sequences_of(np.arange(20)).tolist() == ORDER
    assert SequenceOrder(seed=1, source="wiki", size=10**12).sequences_of(np.array([0, 10**13])).tolist() == FAR
