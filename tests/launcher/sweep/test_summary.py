"""The summary: means with t intervals, and the best combination among those with a loss for every seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from small_runs import make_shards, write_config

from launcher.sweep.grid import parse_axes
from launcher.sweep.plot import draw_sweep
from launcher.sweep.points import Point, Sweep, plan_sweep
from launcher.sweep.records import Record
from launcher.sweep.summary import Estimate, best_of, closing_lines, combine, table

LOSSES = {"1e-3": (3.0, 3.2, 3.1), "2e-3": (2.9, 3.1, 3.05), "4e-3": (2.0, 2.1, None), "8e-3": (3.9, 4.2, 4.0)}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("sweep")
    config = write_config(folder, make_shards(folder))
    return plan_sweep(config, [], parse_axes(["optim.lr=1e-3,2e-3,4e-3,8e-3"]), seeds=3)


def record(point: Point, loss: float | None) -> Record:
    return Record(
        config=point.digest,
        point=dict(point.values),
        seed=point.seed,
        diverged=loss is None,
        loss=loss,
        loss_is=None if loss is None else "held_out",
        steps=12,
        tokens=3072,
        seconds=1.5,
    )


def records(sweep: Sweep) -> dict[str, Record]:
    return {
        point.digest: record(point, LOSSES[point.values["optim.lr"]][point.seed - sweep.points[0].seed])
        for point in sweep.points
    }


def test_the_interval_is_that_of_students_t() -> None:
    values = [3.0, 3.2, 3.1, 3.4]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    estimate = Estimate.of(values)
    assert (estimate.mean - estimate.half_width, estimate.mean + estimate.half_width) == pytest.approx((low, high))
    assert str(Estimate.of([3.0])) == "3.0000"
    assert math.isnan(Estimate.of([3.0]).half_width)


def test_the_best_has_a_loss_for_every_seed(sweep: Sweep) -> None:
    combinations = combine(sweep.points, records(sweep))
    best = best_of(combinations)
    assert best is not None
    assert best.values == {"optim.lr": "2e-3"}
    rows = table(combinations, sweep.axes)
    assert [row[0] for row in rows] == ["optim.lr", "2e-3", "1e-3", "8e-3", "4e-3"]
    assert [row[-1] for row in rows[1:]] == ["best", "", "", "1 diverged"]
    low, high = stats.t.interval(0.95, 2, loc=0.25 / 3, scale=stats.sem([0.1, 0.1, 0.05]))
    assert rows[2][-2] == f"{0.25 / 3:.4f} ± {(high - low) / 2:.4f}"
    lines = list(closing_lines(combinations, sweep.axes, {"held_out"}))
    assert lines == [
        "loss: held-out loss after the last step, in nats a token",
        f"best: optim.lr=2e-3, {best.estimate} (mean and 95% t interval over 3 seeds)",
    ]


def test_skipped_steps_of_runs_with_a_loss_are_marked(sweep: Sweep) -> None:
    known = records(sweep)
    for number, steps in ((0, 1), (3, 2), (4, 1), (8, 5)):
        digest = sweep.points[number].digest
        known[digest] = known[digest].model_copy(update={"skipped_steps": steps})
    rows = table(combine(sweep.points, known), sweep.axes)
    assert [row[-1] for row in rows[1:]] == ["best, 3 steps skipped", "1 step skipped", "", "1 diverged"]


def test_what_is_close_missing_or_at_an_edge_is_named(sweep: Sweep) -> None:
    known = records(sweep)
    for point, loss in zip(sweep.points[:3], (2.8, 3.2, 3.0), strict=True):
        known[point.digest] = record(point, loss)
    lines = list(closing_lines(combine(sweep.points, known), sweep.axes, {"held_out"}))
    assert lines[1].startswith("best: optim.lr=1e-3")
    assert lines[2:] == [
        "not told apart from it, by the differences of equal seeds: optim.lr=2e-3",
        "the best optim.lr lies at the edge of the grid: smaller values may be better",
    ]
    del known[sweep.points[-1].digest]
    lines = list(closing_lines(combine(sweep.points, known), sweep.axes, {"held_out"}))
    assert lines[1].startswith("best so far: optim.lr=1e-3")
    assert not any("edge" in line for line in lines)


def test_the_plot_has_each_mean_and_each_seed(sweep: Sweep) -> None:
    (axes,) = draw_sweep(combine(sweep.points, records(sweep)), sweep.axes, title="x").axes
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "final loss, nats a token\nbars: 95% t interval of the mean"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1e-3", "2e-3", "4e-3", "8e-3"]
    seeds = [line.get_ydata() for line in axes.lines if line.get_marker() == "."]
    assert sorted(float(y) for ys in seeds for y in ys) == sorted(y for ys in LOSSES.values() for y in ys if y)
