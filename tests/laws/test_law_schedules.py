"""The families here and in a run's `schedule` section are the same schedules."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laws.schedules import FAMILIES, write_table
from optim.schedules import SCHEDULES
from settings import UserError

CASES = [
    {"name": "constant", "warmup_steps": 0},
    {"name": "constant", "warmup_steps": 7},
    {"name": "linear", "warmup_steps": 5, "min_lr": 1e-5},
    {"name": "linear"},
    {"name": "cosine", "warmup_steps": 10, "min_lr": 3e-5},
    {"name": "cosine", "warmup_steps": 1},
    *[
        {"name": "wsd", "warmup_steps": 9, "min_lr": 1e-6, "decay_steps": decay, "tail": tail}
        for tail in ("linear", "cosine", "one_minus_sqrt", "exponential")
        for decay in (None, 1, 31)
    ],
    {"name": "infinite", "warmup_steps": 4},
    {"name": "infinite", "cooldown": "inverse_sqrt", "constant_lr": 1e-4, "min_lr": 1e-6},
    {"name": "infinite", "warmup_steps": 9, "cooldown_end_step": 9, "constant_end_step": 60},
    {"name": "infinite", "warmup_steps": 9, "cooldown_end_step": 50, "constant_end_step": 50},
    {"name": "infinite", "warmup_steps": 9, "cooldown_end_step": 50, "constant_end_step": 97},
]


def the_runs(plain: dict[str, object], peak: float, steps: int) -> np.ndarray:
    lr = SCHEDULES.parse(plain).build(peak_lr=peak, total_steps=steps)
    return np.array([lr(step) for step in range(steps)])


@pytest.mark.parametrize("plain", CASES, ids=lambda plain: json.dumps(plain))
@pytest.mark.parametrize("steps", [97, 250])
def test_equal_to_the_schedule_of_a_run(plain: dict[str, object], steps: int) -> None:
    ours = FAMILIES.parse(plain).build(peak_lr=3e-4, total_steps=steps)
    np.testing.assert_allclose(ours.lr, the_runs(plain, 3e-4, steps), rtol=1e-13, atol=1e-19)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 60),
    warmup=st.integers(0, 60),
    name=st.sampled_from(["constant", "linear", "cosine", "wsd", "infinite"]),
)
def test_refuses_and_accepts_what_a_run_does(steps: int, warmup: int, name: str) -> None:
    plain = {"name": name, "warmup_steps": warmup}
    try:
        expected = the_runs(plain, 1e-3, steps)
    except UserError:
        with pytest.raises(UserError):
            FAMILIES.parse(plain).build(peak_lr=1e-3, total_steps=steps)
        return
    ours = FAMILIES.parse(plain).build(peak_lr=1e-3, total_steps=steps)
    np.testing.assert_allclose(ours.lr, expected, rtol=1e-13, atol=1e-19)


def test_the_same_keys_and_defaults() -> None:
    for name in FAMILIES.names():
        ours, theirs = FAMILIES[name].model_fields, SCHEDULES[name].model_fields
        assert set(ours) == set(theirs)
        assert {key: field.default for key, field in ours.items()} == {key: f.default for key, f in theirs.items()}


def test_a_table_is_read_by_a_run_to_the_last_bit(tmp_path: Path) -> None:
    schedule = FAMILIES.parse({"name": "cosine", "warmup_steps": 3}).build(peak_lr=1 / 3, total_steps=40)
    write_table(schedule, tmp_path / "lr.json")
    plain = {"name": "table", "file": str(tmp_path / "lr.json")}
    assert np.array_equal(the_runs(plain, 1.0, 40), schedule.lr)
