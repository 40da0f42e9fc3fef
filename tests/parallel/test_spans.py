"""Spans are in a trace, Megatron's timers too; without a profiler they are next to nothing."""

from __future__ import annotations

import timeit

import torch
from torch.profiler import ProfilerActivity, profile

from parallel.compute_timer import ComputeTimer
from parallel.spans import MegatronTimers, span

MOST_SECONDS = 10e-6  # measured 1 us; record_function without a profiler takes 20 us


def names_in_a_trace(timers: MegatronTimers) -> list[str]:
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        with span("reduction"):
            timers("backward-compute", log_level=2).start()
            timers("backward-compute").stop()
        timers("forward-recv", log_level=2).start()
        timers("forward-recv").stop()
    return [event.name for event in trace.events()]


def test_spans_and_timers_are_in_a_trace() -> None:
    timers = MegatronTimers(ComputeTimer(torch.device("cpu")))
    timers("backward-compute").start()  # begun before the profiler, ended within: no span
    assert {"reduction", "backward", "forward-recv"} <= set(names_in_a_trace(timers))
    timers("backward-compute").stop()
    assert names_in_a_trace(timers).count("backward") == 1


def test_without_a_profiler_they_are_cheap() -> None:
    timers = MegatronTimers(ComputeTimer(torch.device("cpu")))

    def enter_a_span() -> None:
        with span("forward"):
            pass

    def use_a_timer() -> None:
        timers("backward-compute", log_level=2).start()
        timers("backward-compute").stop()

    for action in (enter_a_span, use_a_timer):
        assert min(timeit.repeat(action, number=100, repeat=20)) / 100 < MOST_SECONDS
