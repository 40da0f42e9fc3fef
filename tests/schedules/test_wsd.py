"""WSD: its stable phase, its tails, what it refuses."""

from __future__ import annotations

import math

import pytest

from schedules.base import Schedule
from schedules.wsd import WsdConfig
from settings import UserError

PEAK = 1e-3


def build(total_steps: int, **values: object) -> Schedule:
    return WsdConfig.model_validate(values).build(peak_lr=PEAK, total_steps=total_steps)


@pytest.mark.parametrize(
    ("tail", "halfway"),
    [
        ("linear", (PEAK + 1e-5) / 2),
        ("cosine", (PEAK + 1e-5) / 2),
        ("one_minus_sqrt", 1e-5 + (PEAK - 1e-5) * (1 - math.sqrt(0.5))),
        ("exponential", math.sqrt(PEAK * 1e-5)),
    ],
)
def test_wsd_is_stable_until_its_tail(tail: str, halfway: float) -> None:
    schedule = build(1000, warmup_steps=10, decay_steps=200, tail=tail, min_lr=1e-5)
    assert set(schedule.lr(range(9, 800)).tolist()) == {PEAK}
    assert schedule(800) < PEAK
    assert schedule(899) == pytest.approx(halfway)
    assert schedule(999) == 1e-5


def test_wsd_refuses_a_tail_that_does_not_fit_or_never_ends() -> None:
    with pytest.raises(UserError, match=r"schedule.decay_steps = 95 must leave room for the warm-up: at most 90"):
        build(100, warmup_steps=10, decay_steps=95)
    with pytest.raises(UserError, match=r"min_lr = 0 is never reached by schedule.tail = exponential"):
        build(100, tail="exponential")
