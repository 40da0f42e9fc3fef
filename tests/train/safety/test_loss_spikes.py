"""Which losses are spikes, and where the run resumes after one."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.safety.loss_spikes import SpikeConfig, is_spike, rolled_back, with_recent_loss
from train.state import TrainState, with_batches_left_out

CONFIG = SpikeConfig(sigma=3.0, window_steps=4)
CALM = (2.0, 2.2, 2.0, 2.2)  # mean 2.1, standard deviation 0.1


@pytest.mark.parametrize(
    ("loss", "recent", "spike"),
    [
        (2.41, CALM, True),
        (2.39, CALM, False),
        (1.0, CALM, False),  # falling is no spike
        (9.0, CALM[:3], False),  # too few to say
        (math.nan, CALM, False),  # the business of skipped steps
        (math.inf, CALM, False),
    ],
)
def test_a_spike_is_far_above_what_came_before(loss: float, recent: tuple[float, ...], spike: bool) -> None:
    assert is_spike(loss, recent, CONFIG) is spike


def test_off_unless_asked_for() -> None:
    off = SpikeConfig()
    assert not is_spike(1e9, (1.0,) * 64, off)
    assert with_recent_loss(TrainState(), 1.0, off).recent_losses == ()


def test_the_state_has_the_last_losses() -> None:
    state = TrainState()
    for loss in (9.0, math.nan, *CALM):
        state = with_recent_loss(state, loss, CONFIG)
    assert state.recent_losses == CALM


def test_the_batches_since_the_checkpoint_are_left_out() -> None:
    checkpoint = TrainState(step=10, tokens=100, recent_losses=CALM)
    once = rolled_back(TrainState(step=14, tokens=140), checkpoint, CONFIG)
    assert once == TrainState(step=10, tokens=100, recent_losses=CALM, left_out=((10, 13),), rollbacks=1)
    assert once.batch == 14
    twice = rolled_back(once.model_copy(update={"step": 12}), checkpoint, CONFIG)
    assert (twice.left_out, twice.rollbacks, twice.batch) == (((10, 15),), 2, 16)


def test_or_only_the_last_few_of_them() -> None:
    config = SpikeConfig(sigma=3.0, window_steps=4, skip_batches=2)
    after = rolled_back(TrainState(step=14), TrainState(step=10), config)
    assert after.left_out == ((12, 13),)
    taken = [after.model_copy(update={"step": step}).batch for step in range(10, 14)]
    assert taken == [10, 11, 14, 15]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), max_size=6))
def test_batches_are_the_numbers_that_are_not_left_out(ranges: list[tuple[int, int]]) -> None:
    left_out: tuple[tuple[int, int], ...] = ()
    gone = set()
    for first, more in ranges:
        left_out = with_batches_left_out(left_out, first, first + more)
        gone |= set(range(first, first + more + 1))
    expected = [number for number in range(200) if number not in gone][:60]
    assert [TrainState(step=step, left_out=left_out).batch for step in range(60)] == expected
    assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(left_out))
