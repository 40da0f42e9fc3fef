"""The infinite schedule: its phases, how runs go on from it, what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from schedules.base import Schedule
from schedules.infinite import InfiniteConfig
from settings import UserError

PEAK = 1e-3


def build(total_steps: int, **values: object) -> Schedule:
    return InfiniteConfig.model_validate(values).build(peak_lr=PEAK, total_steps=total_steps)


@pytest.mark.parametrize("cooldown", ["cosine", "inverse_sqrt"])
def test_infinite_phases_have_their_closed_forms(cooldown: str) -> None:
    peak, constant, last = PEAK, 4e-4, 1e-5
    schedule = build(
        1000, warmup_steps=50, cooldown_end_step=150, constant_end_step=800, constant_lr=constant, min_lr=last,
        cooldown=cooldown,
    )  # fmt: skip
    for ordinal in range(50, 151):
        u = (ordinal - 50) / 100
        if cooldown == "cosine":
            expected = constant + (peak - constant) / 2 * (1 + math.cos(math.pi * u))
        else:
            expected = peak + (constant - peak) * (1 / math.sqrt(1 + 10 * u) - 1) / (1 / math.sqrt(11) - 1)
        assert schedule(ordinal - 1) == pytest.approx(expected, rel=1e-12)
    assert {schedule(ordinal - 1) for ordinal in range(150, 801)} == {constant}
    for ordinal in range(800, 1001):
        expected = constant * (last / constant) ** ((ordinal - 800) / 200)
        assert schedule(ordinal - 1) == pytest.approx(expected, rel=1e-12)
    assert schedule(999) == last


def test_infinite_goes_on_from_its_constant_phase_whatever_the_run_s_length() -> None:
    values = {"warmup_steps": 5, "cooldown_end_step": 20, "constant_lr": 5e-4}
    short = build(100, constant_end_step=100, **values)
    long = build(500, constant_end_step=400, **values)
    assert np.array_equal(short.lr(range(100)), long.lr(range(100)))


def test_infinite_refuses_phases_out_of_order_and_a_constant_outside_its_ends() -> None:
    with pytest.raises(UserError, match="the phases must follow each other"):
        build(100, warmup_steps=30, cooldown_end_step=20)
    with pytest.raises(UserError, match="the phases must follow each other"):
        build(100, constant_end_step=101)
    with pytest.raises(UserError, match=r"schedule.constant_lr = 0.01 must lie between"):
        build(100, constant_lr=0.01)
