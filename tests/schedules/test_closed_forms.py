"""Each schedule's lr equals a plain closed form over Python floats, to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedules.base import SCHEDULES

Form = Callable[[float, float, float], float]
FORMS: dict[str, Form] = {
    "linear": lambda a, b, u: b + (a - b) * (1 - u),
    "cosine": lambda a, b, u: b + (a - b) * 0.5 * (1 + math.cos(math.pi * u)),
    "one_minus_sqrt": lambda a, b, u: b + (a - b) * (1 - math.sqrt(u)),
    "exponential": lambda a, b, u: a * math.exp(u * math.log(b / a)),
    "inverse_sqrt": lambda a, b, u: a + (b - a) * (1 / math.sqrt(1 + 10 * u) - 1) / (1 / math.sqrt(11) - 1),
}


def between(form: Form, first: float, last: float, start: int, end: int, n: int) -> float:
    if n <= start:
        return first
    return last if n >= end else form(first, last, (n - start) / (end - start))


def closed_form(plain: Mapping[str, Any], peak: float, total: int, step: int) -> float:
    """The lr of a 0-based step by the definitions, one step at a time."""
    n, warmup, name = min(step + 1, total), plain["warmup_steps"], plain["name"]
    if n < warmup:
        return peak * (n / warmup)
    start = max(warmup, 1)
    if name == "constant":
        return peak
    if name in ("linear", "cosine"):
        return between(FORMS[name], peak, plain["min_lr"], start, total, n)
    if name == "wsd":
        return between(FORMS[plain["tail"]], peak, plain["min_lr"], total - plain["decay_steps"], total, n)
    assert name == "infinite"
    if n > plain["constant_end_step"]:
        return between(
            FORMS["exponential"], plain["constant_lr"], plain["min_lr"], plain["constant_end_step"], total, n
        )
    return between(FORMS[plain["cooldown"]], peak, plain["constant_lr"], start, plain["cooldown_end_step"], n)


@st.composite
def cases(draw: st.DrawFn, name: str) -> tuple[dict[str, Any], float, int]:
    """Settings of a schedule that fit a run, its peak and its length."""
    total = draw(st.integers(1, 2000))
    peak = draw(st.floats(1e-7, 10.0))
    warmup = draw(st.integers(0, total))
    start = max(warmup, 1)
    plain: dict[str, Any] = {"name": name, "warmup_steps": warmup}
    if name != "constant":
        plain["min_lr"] = draw(st.floats(1e-9 * peak, peak))
    if name == "wsd":
        plain["tail"] = draw(st.sampled_from(["linear", "cosine", "one_minus_sqrt", "exponential"]))
        plain["decay_steps"] = draw(st.integers(min(1, total - start), total - start))
    if name == "infinite":
        plain["cooldown"] = draw(st.sampled_from(["cosine", "inverse_sqrt"]))
        plain["constant_lr"] = draw(st.floats(plain["min_lr"], peak))
        plain["cooldown_end_step"] = draw(st.integers(start, total))
        plain["constant_end_step"] = draw(st.integers(plain["cooldown_end_step"], total))
    return plain, peak, total


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd", "infinite"])
@given(data=st.data())
@settings(deadline=None, max_examples=60, database=None)
def test_the_lr_is_the_closed_form_to_the_bit(name: str, data: st.DataObject) -> None:
    plain, peak, total = data.draw(cases(name))
    section = {key: value for key, value in plain.items() if (key, value) != ("decay_steps", 0)}
    schedule = SCHEDULES.parse(section).build(peak_lr=peak, total_steps=total)
    expected = np.array([closed_form(plain, peak, total, step) for step in range(total + 3)])
    assert schedule.lr(range(total + 3)).tobytes() == expected.tobytes()
    step = data.draw(st.integers(0, total + 2))
    assert schedule(step).hex() == float(expected[step]).hex()
