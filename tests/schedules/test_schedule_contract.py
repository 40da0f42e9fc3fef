"""The contract of every registered schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from schedules.base import SCHEDULES, DecayingConfig, ScheduleConfig, WarmedConfig
from schedules.search_space import SearchLimits
from settings import UserError

PEAK = 1e-3
NAMES = SCHEDULES.names()
WARMED = tuple(name for name in NAMES if issubclass(SCHEDULES[name], WarmedConfig))
DECAYING = tuple(name for name in NAMES if issubclass(SCHEDULES[name], DecayingConfig))


def altered(config: ScheduleConfig, **values: object) -> ScheduleConfig:
    """A config with other settings, checked anew."""
    return SCHEDULES.parse({**config.to_plain(), **values})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("total_steps", [1, 2, 3, 100, 1000])
def test_a_schedule_is_finite_pure_and_holds_its_last_value(name: str, total_steps: int, tmp_path: Path) -> None:
    for config in SCHEDULES[name].examples(tmp_path):
        schedule = config.build(peak_lr=PEAK, total_steps=total_steps)
        forward = [schedule(step) for step in range(total_steps + 5)]
        backward = [schedule(step) for step in reversed(range(total_steps + 5))][::-1]
        assert forward == backward
        assert all(type(lr) is float and math.isfinite(lr) and 0 <= lr <= PEAK for lr in forward)
        assert set(forward[total_steps:]) == {forward[total_steps - 1]}
        again = config.build(peak_lr=PEAK, total_steps=total_steps)
        assert [again(step) for step in range(total_steps)] == forward[:total_steps]


@pytest.mark.parametrize("name", NAMES)
def test_many_steps_at_once_are_each_alone_to_the_bit(name: str, tmp_path: Path) -> None:
    for config in SCHEDULES[name].examples(tmp_path):
        schedule = config.build(peak_lr=PEAK, total_steps=700)
        single = np.array([schedule(step) for step in range(710)])
        assert schedule.lr(range(710)).tobytes() == single.tobytes()
        assert schedule.every_step().tobytes() == single[:700].tobytes()
        step_n = np.sort(np.random.default_rng(0).integers(0, 710, size=99))
        assert schedule.lr(step_n).tobytes() == single[step_n].tobytes()
        assert schedule.lr([]).shape == (0,)
        assert schedule.lr(range(9)).dtype == np.float64


@pytest.mark.parametrize("name", WARMED)
def test_warmup_is_linear_and_reaches_the_peak_exactly(name: str, tmp_path: Path) -> None:
    for config in SCHEDULES[name].examples(tmp_path):
        schedule = altered(config, warmup_steps=8).build(peak_lr=PEAK, total_steps=100)
        assert [schedule(step) for step in range(8)] == [PEAK * ((step + 1) / 8) for step in range(8)]
        assert altered(config, warmup_steps=0).build(peak_lr=PEAK, total_steps=100)(0) == PEAK
        assert altered(config, warmup_steps=10).build(peak_lr=PEAK, total_steps=10)(9) == PEAK
        assert altered(config, warmup_steps=8).stated_warmup() == 8


@pytest.mark.parametrize("name", DECAYING)
def test_the_last_step_has_min_lr_exactly(name: str, tmp_path: Path) -> None:
    for config in SCHEDULES[name].examples(tmp_path):
        schedule = altered(config, warmup_steps=8, min_lr=3e-5).build(peak_lr=PEAK, total_steps=100)
        assert schedule(99) == 3e-5


@pytest.mark.parametrize("name", WARMED)
@pytest.mark.parametrize(("warmup", "total"), [(50, 1500), (73, 2711), (100, 3000)])
def test_no_jump_at_any_joint(name: str, warmup: int, total: int, tmp_path: Path) -> None:
    """Continuous in the limit: with 16 times as many steps in every phase the largest change goes towards 0."""

    def largest_change(config: ScheduleConfig, times: int) -> float:
        longer = altered(config, warmup_steps=warmup * times)
        return float(np.abs(np.diff(longer.build(peak_lr=PEAK, total_steps=total * times).every_step())).max())

    for config in SCHEDULES[name].examples(tmp_path):
        assert largest_change(config, 16) < 0.35 * largest_change(config, 1)


@pytest.mark.parametrize("name", NAMES)
def test_recorded_phases_give_the_same_schedule_and_are_kept_by_a_longer_run(name: str, tmp_path: Path) -> None:
    for config in SCHEDULES[name].examples(tmp_path):
        phases = config.phases(100)
        recorded = config.with_phases(phases)
        assert set(phases) <= set(type(config).model_fields)
        assert all(value is not None for key, value in recorded if key in phases)
        assert recorded.phases(100) == recorded.phases(300) == phases
        ours, theirs = (one.build(peak_lr=PEAK, total_steps=100).every_step() for one in (config, recorded))
        assert ours.tobytes() == theirs.tobytes()
        assert recorded.with_phases(config.phases(300)) == recorded


@pytest.mark.parametrize("name", WARMED)
def test_a_warmup_longer_than_the_run_is_refused(name: str, tmp_path: Path) -> None:
    for config in SCHEDULES[name].examples(tmp_path):
        with pytest.raises(UserError, match=r"schedule.warmup_steps = 11 must be at most train.steps = 10"):
            altered(config, warmup_steps=11).build(peak_lr=PEAK, total_steps=10)


@pytest.mark.parametrize("name", DECAYING)
def test_a_min_lr_above_the_peak_is_refused(name: str, tmp_path: Path) -> None:
    for config in SCHEDULES[name].examples(tmp_path):
        with pytest.raises(UserError, match=r"schedule.min_lr = 0.1 must be at most optim.lr = 0.001"):
            altered(config, min_lr=0.1).build(peak_lr=PEAK, total_steps=10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("min_lr", [0.0, 1e-4, PEAK])
@pytest.mark.parametrize(("total_steps", "warmup_steps"), [(2, 1), (3, 0), (60, 59), (1000, 100)])
def test_all_that_a_search_tries_can_be_built(name: str, min_lr: float, total_steps: int, warmup_steps: int) -> None:
    limits = SearchLimits(
        total_steps=total_steps, peak_lr=PEAK, warmup_steps=warmup_steps, min_lr=min_lr, max_decay_share=0.5
    )
    warming_n = PEAK * (np.arange(1, warmup_steps) / max(warmup_steps, 1))

    def check(settings: Mapping[str, object]) -> None:
        lr_n = SCHEDULES.parse({"name": name, **settings}).build(peak_lr=PEAK, total_steps=total_steps).every_step()
        assert np.array_equal(lr_n[: warming_n.size], warming_n)
        assert lr_n[warming_n.size :].min() >= (min_lr if name in DECAYING else 0)
        assert lr_n.max() == PEAK

    for trial in SCHEDULES[name].search_space(limits):
        assert trial.grid == tuple(sorted(set(trial.grid)))
        assert (trial.varied is None) == (not trial.grid)
        check(trial.settings)
        for value in trial.grid:
            assert trial.varied in trial.settings
            check({**trial.settings, trial.varied: value})
