"""The search finds what a fine grid finds, keeps to its constraints, and its results train."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from laws.curve import LrCurve, planned_lr_curve
from laws.fitting.fitted import Fit
from laws.loss_curves.annealing import AnnealingConfig
from laws.loss_curves.multi_power import MultiPowerConfig
from laws.schedule_search.candidate import Constraints, final_loss
from laws.schedule_search.free_form import FreeForm, free_form
from laws.schedule_search.search import search
from schedules.base import SCHEDULES
from schedules.table import write_table
from settings import UserError

ANNEALING = Fit(law=AnnealingConfig(), values={"L0": 2.8, "A": 0.6, "C": 0.5, "alpha": 0.45}, objective=0.0, noise=1e-3)
MULTI_POWER = Fit(
    law=MultiPowerConfig(),
    values={"L0": 2.65, "A": 0.6, "B": 438.0, "alpha": 0.453, "beta": 0.6, "gamma": 0.65, "C": 2.1},
    objective=0.0,
    noise=1e-3,
)
BOTH = pytest.mark.parametrize("fit", [ANNEALING, MULTI_POWER], ids=["annealing", "multi_power"])
GIVEN = Constraints(peak_lr=3e-4, warmup_steps=200, min_lr=3e-5)


@BOTH
def test_the_best_tail_is_that_of_a_fine_grid(fit: Fit) -> None:
    best = {c.name: c for c in search(fit, steps=6000, constraints=GIVEN)}["wsd"]
    grid = []
    for tail in ("linear", "cosine", "one_minus_sqrt", "exponential"):
        for decay in range(50, 5800, 25):
            section = {"name": "wsd", "warmup_steps": 200, "min_lr": 3e-5, "decay_steps": decay, "tail": tail}
            schedule = planned_lr_curve(SCHEDULES.parse(section), peak_lr=3e-4, total_steps=6000)
            grid.append(final_loss(fit, schedule))
    assert best.loss <= min(grid) + 2e-5


@BOTH
def test_free_form_is_best_and_never_rises(fit: Fit) -> None:
    found = search(fit, steps=6000, constraints=GIVEN)
    assert [c.loss for c in found] == sorted(c.loss for c in found)
    assert found[0].name == "free form"
    lr = found[0].schedule.lr
    assert np.all(np.diff(lr[200:]) <= 1e-18)
    assert lr.min() >= 0
    assert lr[200:].min() >= 3e-5 * (1 - 1e-12)
    assert found[0].schedule.peak == 3e-4
    assert found[0].loss == pytest.approx(final_loss(fit, found[0].schedule), rel=1e-12)


def test_free_form_cannot_be_bettered_at_random() -> None:
    """No random non-increasing schedule near the optimum, or far from it, is better by more than the knots cost."""
    best = free_form(MULTI_POWER, 3000, GIVEN)
    rng = np.random.default_rng(0)
    form = FreeForm(3000, GIVEN)
    drops = form.drops(best.schedule)
    for scale in (0.01, 0.1, 1.0):
        for _ in range(40):
            tried = np.maximum(drops + scale * rng.normal(size=drops.size) * drops.max(), 0)
            schedule = form.schedule(tried / max(tried.sum(), 1.0))
            assert final_loss(MULTI_POWER, schedule) >= best.loss - 1e-6


def test_the_slope_by_the_lr_drops() -> None:
    form, rng = FreeForm(2500, GIVEN), np.random.default_rng(1)
    drops = form.linear() * 0.8
    _, slope = MULTI_POWER.law.end_loss(MULTI_POWER.theta_p, form.schedule(drops))
    towards = rng.normal(size=drops.size) * 1e-5
    above = final_loss(MULTI_POWER, form.schedule(drops + towards))
    below = final_loss(MULTI_POWER, form.schedule(drops - towards))
    assert (above - below) / 2 == pytest.approx(form.slope(slope()) @ towards, rel=1e-4)


def test_a_schedule_survives_the_knots() -> None:
    form = FreeForm(2500, GIVEN)
    linear = SCHEDULES.parse({"name": "linear", "warmup_steps": 200, "min_lr": 3e-5})
    expected = linear.build(peak_lr=3e-4, total_steps=2500).every_step()
    np.testing.assert_allclose(form.schedule(form.linear()).lr, expected, rtol=1e-9)
    cosine = planned_lr_curve(
        SCHEDULES.parse({"name": "cosine", "warmup_steps": 200, "min_lr": 3e-5}), peak_lr=3e-4, total_steps=2500
    )
    np.testing.assert_allclose(form.schedule(form.drops(cosine)).lr, cosine.lr, atol=3e-7)
    assert form.allows(cosine)
    assert not form.allows(LrCurve(cosine.lr[::-1].copy(), 200))


def test_every_registered_schedule_with_settings_to_try_is_searched() -> None:
    limits = GIVEN.limits(1000)
    names = {name for name in SCHEDULES.names() if SCHEDULES[name].search_space(limits)}
    assert names >= {"constant", "cosine", "infinite", "linear", "wsd"}
    assert {c.name for c in search(ANNEALING, steps=1000, constraints=GIVEN)} == {*names, "free form"}


def test_constraints_are_kept() -> None:
    only = Constraints(3e-4, 100, min_lr=0.0, families=("wsd", "cosine"), free_form=False, max_decay_share=0.1)
    found = search(MULTI_POWER, steps=4000, constraints=only)
    assert sorted(c.name for c in found) == ["cosine", "wsd"]
    wsd = next(c for c in found if c.name == "wsd")
    assert wsd.section is not None
    assert wsd.section["decay_steps"] <= 400


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (Constraints(3e-4, 9000), "warmup_steps = 9000 must lie between 0 and steps - 1 = 3999"),
        (Constraints(3e-4, 0, min_lr=1e-3), "min_lr = 0.001 must lie between 0 and peak_lr"),
        (Constraints(0.0, 0), "peak_lr = 0.0 must be above 0"),
        (Constraints(3e-4, 0, families=("cosin",)), 'no schedule is called "cosin"; did you mean "cosine"'),
        (Constraints(3e-4, 0, families=("table",)), "schedule table cannot be searched"),
        (Constraints(3e-4, 0, families=(), free_form=False), "nothing to search"),
        (Constraints(3e-4, 0, max_decay_share=0.0), "max_decay_share = 0.0"),
    ],
)
def test_impossible_constraints_are_refused(constraints: Constraints, message: str) -> None:
    with pytest.raises(UserError, match=message):
        search(ANNEALING, steps=4000, constraints=constraints)


def test_what_is_found_is_a_schedule_of_a_run(tmp_path: Path) -> None:
    for candidate in search(MULTI_POWER, steps=1500, constraints=GIVEN):
        write_table(candidate.schedule.lr, tmp_path / "lr.json")
        config = json.loads(json.dumps(candidate.config(tmp_path / "lr.json")))
        lr = SCHEDULES.parse(config["schedule"]).build(peak_lr=config["optim"]["lr"], total_steps=1500)
        np.testing.assert_allclose([lr(step) for step in range(1500)], candidate.schedule.lr, rtol=1e-12)


def test_short_runs() -> None:
    for steps in (2, 3, 10, 61):
        found = search(ANNEALING, steps=steps, constraints=Constraints(3e-4, 1))
        assert all(b.loss >= a.loss for a, b in pairwise(found))
