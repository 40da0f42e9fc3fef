"""The goodput of a job, by arithmetic that is done here by hand."""

from __future__ import annotations

import math

import pytest

from launcher.slurm.goodput import goodput_of
from train.metrics.time_ledger import StartTimes


def start(began: float, until: float, *, starting: float, steps: float, saving: float, saves: int) -> StartTimes:
    return StartTimes(began, until, 0, starting, steps, saving, 0.0, saves, 10)


EVENTS = [
    {"event": "begin", "time": 1010.0, "attempt": 1, "nodes": "n[1-2]"},
    {"event": "end", "time": 1150.0, "attempt": 1, "exit_code": 137, "action": "requeue", "fault": True},
    {"event": "begin", "time": 1200.0, "attempt": 2, "nodes": "n[1-2]"},
    {"event": "end", "time": 1300.0, "attempt": 2, "exit_code": 0, "action": "end"},
]
TIMES = [
    start(1012.0, 1130.0, starting=18.0, steps=94.0, saving=6.0, saves=3),
    start(1201.0, 1299.0, starting=9.0, steps=88.0, saving=1.0, saves=1),
]


def test_the_seconds_of_each_start() -> None:
    goodput = goodput_of(EVENTS, TIMES, submitted=1000.0, now=2000.0)
    first, second = goodput.starts
    assert (first.queue, first.starting, first.useful, first.saving, first.lost, first.fault) == (
        10,
        20,
        94,
        6,
        20,
        True,
    )
    assert (second.queue, second.starting, second.useful, second.saving, second.lost) == (50, 10, 88, 1, 1)
    for one, seconds in ((first, 140), (second, 100)):
        assert one.held == seconds
    assert goodput.effective_ratio == pytest.approx(182 / 240)
    assert goodput.seconds_to_recover == 60  # in the queue for 50 s, then 10 s to the first step


def test_the_interval_of_checkpoints_that_would_lose_least() -> None:
    goodput = goodput_of(EVENTS, TIMES, submitted=1000.0, now=2000.0)
    best = math.sqrt(2 * (7 / 4) * 240)  # a save holds the loop for 7/4 s, and there was one fault in 240 s
    assert goodput.best_checkpoint_seconds() == pytest.approx(best)
    steps = round(best / (182 / 20))
    assert goodput.interval_advice(steps) is None
    assert goodput.interval_advice(2 * steps) is None
    advice = goodput.interval_advice(2 * steps + 1)
    assert advice is not None
    assert f"; {steps} would lose least time" in advice


def test_a_job_that_slurm_puts_back_after_a_node_has_failed_had_a_fault() -> None:
    """The attempt itself leaves the job to Slurm, and the next one finds out why."""
    left = {**EVENTS[1], "action": "leave", "fault": False}
    found = {"event": "end", "time": 1200.0, "attempt": 1, "exit_code": None, "action": "requeue", "fault": True}
    first = goodput_of([EVENTS[0], left, found, *EVENTS[2:]], TIMES, submitted=1000.0, now=2000.0).starts[0]
    assert (first.held, first.fault) == (140, True)
    cancelled = goodput_of([EVENTS[0], left], TIMES, submitted=1000.0, now=2000.0).starts[0]
    assert (cancelled.held, cancelled.fault) == (140, False)


def test_an_attempt_that_was_lost_or_has_saved_nothing_is_lost_time_and_one_that_runs_is_not() -> None:
    events = [EVENTS[0], {**EVENTS[2], "time": 1100.0}]
    first, second = goodput_of(events, [], submitted=None, now=1130.0).starts
    assert (first.queue, first.useful, first.lost) == (0, 0, 90)
    assert (second.queue, second.lost) == (0, 0)
