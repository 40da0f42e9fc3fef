"""The mixture's proportions are exact to one row over any prefix, whatever the weights and stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data.batches.mixture import Mixture, MixtureStage, integer_weights

weights_of = st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any)


def largest_distance(stages: Sequence[MixtureStage], rows: int) -> Fraction:
    """Return the largest distance of a count from the sum of its weights, over all prefixes and sources.

    Also checks that each source's sample numbers are 0, 1, 2, ...
    """
    sources, samples = Mixture(stages).rows(0, rows)
    number = len(stages[0].weights)
    periods = [sum(stage.weights) for stage in stages]
    unit = math.lcm(*periods)
    due, count, largest = [0] * number, [0] * number, 0
    stage = 0
    for row, (source, sample) in enumerate(zip(sources.tolist(), samples.tolist(), strict=True)):
        while stage + 1 < len(stages) and stages[stage + 1].first_row <= row:
            stage += 1
        assert stages[stage].weights[source] > 0, "a source of weight 0 was drawn from"
        assert sample == count[source]
        count[source] += 1
        for s in range(number):
            due[s] += stages[stage].weights[s] * unit // periods[stage]
            largest = max(largest, abs(due[s] - count[s] * unit))
    return Fraction(largest, unit)


@given(weights=weights_of)
@settings(max_examples=60, deadline=None)
def test_any_prefix_is_exact_to_one_row(weights: list[int]) -> None:
    assert largest_distance([MixtureStage(0, tuple(weights))], 3 * sum(weights)) < 1


@pytest.mark.parametrize("sources", [1, 2, 5, 40])
def test_long_periods_are_exact_to_one_row(sources: int) -> None:
    rng = np.random.default_rng(sources)
    weights = integer_weights((rng.pareto(1.0, sources) + 1e-6).tolist(), longest=5000)
    assert largest_distance([MixtureStage(0, weights)], 12_000) < 1


@given(data=st.data(), sources=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_stages_of_three_sources_are_exact_to_one_row(data: st.DataObject, sources: int) -> None:
    """Counts continue through every change of weights, even if sources leave and return."""
    weights = st.lists(st.integers(0, 30), min_size=sources, max_size=sources).filter(any)
    lengths = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=4))
    starts = [0, *np.cumsum(lengths).tolist()]
    stages = [MixtureStage(start, tuple(data.draw(weights))) for start in starts]
    assert largest_distance(stages, starts[-1] + 200) < 1


@given(data=st.data(), sources=st.integers(4, 9))
@settings(max_examples=60, deadline=None)
def test_stages_of_more_sources_stay_within_two_rows(data: st.DataObject, sources: int) -> None:
    weights = st.lists(st.integers(1, 30), min_size=sources, max_size=sources)
    lengths = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=3))
    starts = [0, *np.cumsum(lengths).tolist()]
    stages = [MixtureStage(start, tuple(data.draw(weights))) for start in starts]
    assert largest_distance(stages, starts[-1] + 200) < 2


def test_an_error_does_not_grow_with_the_number_of_stages() -> None:
    """A source gets what it is owed in the next stage; counts that restart with each stage would drift."""
    stages = [MixtureStage(7 * number, (3, 1, 1) if number % 2 else (2, 2, 1)) for number in range(60)]
    assert largest_distance(stages, 450) < 1


@given(weights=weights_of, first=st.integers(0, 10**13), count=st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_far_rows_are_looked_up(weights: list[int], first: int, count: int) -> None:
    """Row k * period + r is row r with k times the period's counts before it."""
    mixture = Mixture([MixtureStage(0, tuple(weights))])
    period = sum(weights)
    sources, samples = mixture.rows(first, count)
    periods, indices = np.divmod(np.arange(first, first + count), period)
    near_sources, near_samples = mixture.rows(0, period)
    assert np.array_equal(sources, near_sources[indices])
    assert np.array_equal(samples, near_samples[indices] + periods * np.array(weights)[sources])


@given(data=st.data(), sources=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_any_split_of_the_rows_gives_the_same(data: st.DataObject, sources: int) -> None:
    """Fresh mixtures look up ranges of rows in any order, across stages."""
    weights = st.lists(st.integers(0, 20), min_size=sources, max_size=sources).filter(any)
    stages = [MixtureStage(start, tuple(data.draw(weights))) for start in (0, 37, 300)]
    expected = Mixture(stages).rows(0, 900)
    cuts = sorted(data.draw(st.sets(st.integers(1, 899), max_size=6)) | {0, 900})
    lookups = [(a, Mixture(stages).rows(a, b - a)) for a, b in zip(cuts[::-1][1:], cuts[::-1], strict=False)]
    lookups.sort(key=lambda lookup: lookup[0])
    for part in (0, 1):
        assert np.array_equal(expected[part], np.concatenate([lookup[1][part] for lookup in lookups]))


def test_a_stage_that_is_added_later_does_not_change_earlier_rows() -> None:
    stages = [MixtureStage(0, (5, 3, 2, 1)), MixtureStage(1000, (1, 1, 7, 2))]
    before, after = Mixture(stages), Mixture([*stages, MixtureStage(1501, (0, 1, 1, 1))])
    for part in (0, 1):
        assert np.array_equal(before.rows(0, 1501)[part], after.rows(0, 1501)[part])


def test_threads_may_look_up_rows_at_the_same_time() -> None:
    """Threads that need the same table at the same time make it once."""
    stages = [MixtureStage(100 * number, (number + 1, 7, 1000)) for number in range(40)]
    expected, shared = Mixture(stages), Mixture(stages)
    first_rows = np.random.default_rng(0).integers(0, 5000, 200).tolist()
    with ThreadPoolExecutor(8) as pool:
        for first, (sources, samples) in zip(
            first_rows, pool.map(lambda first: shared.rows(first, 50), first_rows), strict=True
        ):
            assert np.array_equal(sources, expected.rows(first, 50)[0])
            assert np.array_equal(samples, expected.rows(first, 50)[1])


def test_decimals_are_exact() -> None:
    assert integer_weights([0.7, 0.2, 0.1]) == (7, 2, 1)
    assert integer_weights([1, 1.0, 2]) == (1, 1, 2)
    assert integer_weights([0.123456, 0.876544]) == (1929, 13696)  # of 15625: in lowest terms
    assert integer_weights([0.0, 3e-5]) == (0, 1)


def test_the_largest_remainders_get_the_remaining_parts() -> None:
    assert integer_weights([0.5000001, 0.3, 0.1999999], longest=11) == (6, 3, 2)  # 5.5, 3.3, 2.2
    assert integer_weights([0.9, 0.0999999, 1e-7], longest=100) == (90, 9, 1)  # a positive weight keeps a part


@given(weights=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=30), longest=st.integers(100, 70_000))
@settings(max_examples=80, deadline=None)
def test_other_weights_are_rounded_to_parts(weights: list[float], longest: int) -> None:
    parts = integer_weights(weights, longest=longest)
    exact = [Fraction(str(weight)) for weight in weights]
    if math.lcm(*((weight / sum(exact)).denominator for weight in exact)) <= longest:
        assert all(Fraction(part, sum(parts)) == weight / sum(exact) for part, weight in zip(parts, exact, strict=True))
    else:
        assert longest % sum(parts) == 0, "all parts are given out"
    assert min(parts) >= 1
    shares = np.array(weights) / sum(weights)
    assume(shares.min() * longest >= 1)  # otherwise tiny weights get more than their share
    assert np.abs(np.array(parts) / sum(parts) - shares).max() <= 1 / longest + 1e-12
