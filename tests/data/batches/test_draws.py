"""Ranges of samples and pools of old data, against lists of every sample."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batches.draw_plan import DrawOrder, Pool, SeenSource
from data.batches.draws import Draw, Draws, at_places, total, union, without
from data.batches.pool import PoolOrder

ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda pair: Draw(*pair)), max_size=6)
orders: st.SearchStrategy[DrawOrder] = st.sampled_from(["seen", "unseen_first", "all"])


def listed(draws: Draws | list[Draw]) -> list[int]:
    return [sample for draw in draws for sample in range(draw.first, draw.end)]


@given(draws=ranges, first=st.integers(0, 30), length=st.integers(0, 50))
@settings(max_examples=200, deadline=None)
def test_ranges_are_the_sets_that_they_name(draws: list[Draw], first: int, length: int) -> None:
    joined = union(draws)
    assert listed(joined) == sorted(set(listed(draws)))
    assert all(one.end < other.first for one, other in itertools.pairwise(joined))
    assert total(joined) == len(set(listed(draws)))
    whole = Draw(first, length)
    assert listed(without(whole, joined)) == [n for n in range(first, first + length) if n not in set(listed(draws))]
    assert listed(at_places(joined, whole)) == listed(joined)[first : first + length]


@given(sequences=st.integers(1, 50), draws=ranges, draw=orders, seed=st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_a_pool_is_spent_before_anything_repeats(sequences: int, draws: list[Draw], draw: DrawOrder, seed: int) -> None:
    """Each of three passes has every sample once; what is unseen comes first, at first in the order of the source."""
    seen = sorted({sample for sample in listed(draws) if sample < sequences} | {0})
    unseen = [sample for sample in range(sequences) if sample not in seen]
    source = SeenSource(
        seed=9, sequences=sequences, sha256="", rows=len(seen), draws=union(Draw(sample, 1) for sample in seen)
    )
    order = PoolOrder(Pool(source="a", draw=draw, seen=source, of_earlier_run=True), seed=seed)
    wanted = {"seen": seen, "unseen_first": range(sequences), "all": range(sequences)}[draw]
    assert order.size == len(wanted)
    drawn = order.samples_of(np.arange(3 * order.size))
    for number, samples in enumerate(np.split(drawn, 3)):
        assert sorted(samples.tolist()) == list(wanted)
        if draw == "unseen_first":
            assert set(samples[: len(unseen)].tolist()) == set(unseen)
            assert number or samples[: len(unseen)].tolist() == unseen
    shuffled = np.random.default_rng(0).permutation(3 * order.size)
    assert np.array_equal(order.samples_of(shuffled), drawn[shuffled])


def test_the_passes_over_a_pool_and_the_pools_of_two_seeds_have_orders_of_their_own() -> None:
    source = SeenSource(seed=9, sequences=500, sha256="", rows=300, draws=(Draw(0, 300),))
    pool = Pool(source="a", draw="seen", seen=source, of_earlier_run=True)
    first, second = np.split(PoolOrder(pool, seed=1).samples_of(np.arange(600)), 2)
    other = PoolOrder(pool, seed=2).samples_of(np.arange(300))
    for one, two in ((first, second), (first, other), (first, np.arange(300))):
        assert (one == two).mean() < 0.05  # of two random orders, one in 300 places agrees
