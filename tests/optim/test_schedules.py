"""Schedules: what every registered one does, and the closed form of each."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optim.schedules import SCHEDULES, ScheduleConfig
from settings import UserError

PEAK = 1e-3


def config_of(name: str, folder: Path, **values: object) -> ScheduleConfig:
    """Defaults, and what a schedule cannot do without."""
    if name == "table":
        path = folder / "lr.json"
        path.write_text(json.dumps([PEAK * (1 + i % 7) / 7 for i in range(2000)]), encoding="utf-8")
        values = {"file": path}
    return SCHEDULES[name].model_validate({"name": name, **values})


def build(name: str, total_steps: int, **values: object) -> Callable[[int], float]:
    return SCHEDULES[name].model_validate({"name": name, **values}).build(peak_lr=PEAK, total_steps=total_steps)


NAMES = SCHEDULES.names()
WARMED = tuple(name for name in NAMES if "warmup_steps" in SCHEDULES[name].model_fields)
DECAYING = tuple(name for name in NAMES if "min_lr" in SCHEDULES[name].model_fields)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("total_steps", [1, 2, 3, 100, 1000])
def test_every_schedule_is_finite_positive_pure_and_holds_its_last_value(
    name: str, total_steps: int, tmp_path: Path
) -> None:
    schedule = config_of(name, tmp_path).build(peak_lr=PEAK, total_steps=total_steps)
    forward = [schedule(step) for step in range(total_steps + 5)]
    backward = [schedule(step) for step in reversed(range(total_steps + 5))][::-1]
    assert forward == backward
    assert all(math.isfinite(lr) and 0 <= lr <= PEAK for lr in forward)
    assert set(forward[total_steps:]) == {forward[total_steps - 1]}
    again = config_of(name, tmp_path).build(peak_lr=PEAK, total_steps=total_steps)
    assert [again(step) for step in range(total_steps)] == forward[:total_steps]


@pytest.mark.parametrize("name", WARMED)
def test_warmup_is_linear_and_reaches_the_peak_exactly(name: str) -> None:
    schedule = build(name, 100, warmup_steps=8)
    assert [schedule(step) for step in range(8)] == [PEAK * ((step + 1) / 8) for step in range(8)]
    assert build(name, 100)(0) == PEAK
    assert build(name, 10, warmup_steps=10)(9) == PEAK


@pytest.mark.parametrize("name", DECAYING)
def test_the_last_step_has_min_lr_exactly(name: str) -> None:
    assert build(name, 100, warmup_steps=8, min_lr=3e-5)(99) == 3e-5


@pytest.mark.parametrize("name", WARMED)
@given(data=st.data())
@settings(deadline=None, max_examples=20, database=None)
def test_no_jump_at_any_joint(name: str, data: st.DataObject) -> None:
    """Continuous in the limit: twice as many steps in every phase about halve the largest change between steps."""
    warmup = data.draw(st.integers(50, 100))
    total = data.draw(st.integers(1500, 3000))
    values: dict[str, object] = {"min_lr": 1e-5} if name in DECAYING else {}
    if name == "wsd":
        values["tail"] = data.draw(st.sampled_from(["linear", "cosine", "exponential"]))
    if name == "infinite":
        values["cooldown"] = data.draw(st.sampled_from(["cosine", "inverse_sqrt"]))

    def largest_change(times: int) -> float:
        schedule = build(name, total * times, warmup_steps=warmup * times, **values)
        lrs = [schedule(step) for step in range(total * times)]
        return max(abs(a - b) for a, b in itertools.pairwise(lrs))

    assert largest_change(4) < 0.35 * largest_change(1)


@pytest.mark.parametrize("name", WARMED)
def test_a_warmup_longer_than_the_run_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"schedule.warmup_steps = 11 must be at most train.steps = 10"):
        build(name, 10, warmup_steps=11)


@pytest.mark.parametrize("name", DECAYING)
def test_a_min_lr_above_the_peak_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"schedule.min_lr = 0.1 must be at most optim.lr = 0.001"):
        build(name, 10, min_lr=0.1)


def test_linear_and_cosine_halfway() -> None:
    assert build("linear", 101, min_lr=2e-4)(50) == pytest.approx((PEAK + 2e-4) / 2)
    assert build("cosine", 101, min_lr=2e-4)(50) == pytest.approx((PEAK + 2e-4) / 2)
    assert build("cosine", 101, min_lr=0)(25) == pytest.approx(PEAK * (1 + math.sqrt(0.5)) / 2)


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
    schedule = build("wsd", 1000, warmup_steps=10, decay_steps=200, tail=tail, min_lr=1e-5)
    assert {schedule(step) for step in range(9, 800)} == {PEAK}
    assert schedule(800) < PEAK
    assert schedule(899) == pytest.approx(halfway)
    assert schedule(999) == 1e-5


def test_wsd_refuses_a_tail_that_does_not_fit_or_never_ends() -> None:
    with pytest.raises(UserError, match=r"schedule.decay_steps = 95 must leave room for the warm-up: at most 90"):
        build("wsd", 100, warmup_steps=10, decay_steps=95)
    with pytest.raises(UserError, match=r"min_lr = 0 is never reached by schedule.tail = exponential"):
        build("wsd", 100, tail="exponential")


@pytest.mark.parametrize("cooldown", ["cosine", "inverse_sqrt"])
def test_infinite_phases_have_their_closed_forms(cooldown: str) -> None:
    peak, constant, last = PEAK, 4e-4, 1e-5
    schedule = build(
        "infinite", 1000, warmup_steps=50, cooldown_end_step=150, constant_end_step=800, constant_lr=constant,
        min_lr=last, cooldown=cooldown,
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
    short = build("infinite", 100, constant_end_step=100, **values)
    long = build("infinite", 500, constant_end_step=400, **values)
    assert [short(step) for step in range(100)] == [long(step) for step in range(100)]


def test_infinite_refuses_phases_out_of_order_and_a_constant_outside_its_ends() -> None:
    with pytest.raises(UserError, match="the phases must follow each other"):
        build("infinite", 100, warmup_steps=30, cooldown_end_step=20)
    with pytest.raises(UserError, match="the phases must follow each other"):
        build("infinite", 100, constant_end_step=101)
    with pytest.raises(UserError, match=r"schedule.constant_lr = 0.01 must lie between"):
        build("infinite", 100, constant_lr=0.01)


def test_table_reads_json_and_text_alike(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1e-3, 0.0005, 0]", encoding="utf-8")
    (tmp_path / "b.txt").write_text("1e-3\n0.0005\n0\n", encoding="utf-8")
    for file in ("a.json", "b.txt"):
        schedule = build("table", 3, file=tmp_path / file)
        assert [schedule(step) for step in range(4)] == [1e-3, 5e-4, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e-3\n", r"holds 1 values, fewer than train.steps = 3"),
        ("1e-3\nabc\n1", "must hold one number a step"),
        ("[1, [2], 3]", "must hold one number a step"),
        ("[1, 2", "must hold one number a step"),
        ("1\n-1\n2", r"lr -1.0 of step 1 must be finite and at least 0"),
        ("1\nnan\n2", r"lr nan of step 1 must be finite"),
    ],
)
def test_table_refuses_a_wrong_file_with_its_reason(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "lr.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        build("table", 3, file=path)


def test_table_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no.txt cannot be read"):
        build("table", 3, file=tmp_path / "no.txt")
