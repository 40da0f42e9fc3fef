"""Steps add up to all the time that passed, but for what is excluded; on a GPU too."""

from __future__ import annotations

import contextlib
import time

import pytest
import torch

from train.metrics.step_timer import StepTimer


def test_steps_and_what_is_apart_add_up() -> None:
    """No time is lost or counted twice: what lies between two steps is a part of the later one."""
    timer = StepTimer(torch.device("cpu"))
    time.sleep(0.1)
    before_start = time.perf_counter()
    timer.start()
    after_start = time.perf_counter()
    apart_at_most = apart_at_least = 0.0
    steps = []
    for step in range(4):
        time.sleep(0.01)  # a step's work
        steps.append(timer.end_step())
        time.sleep(0.02)  # metrics, the next batch
        if step % 2:
            entered = time.perf_counter()
            with timer.excluded():
                within = time.perf_counter()
                time.sleep(0.05)
                apart_at_least += time.perf_counter() - within
            apart_at_most += time.perf_counter() - entered
    before_end = time.perf_counter()
    steps.append(timer.end_step())
    after_end = time.perf_counter()
    assert before_end - after_start - apart_at_most <= sum(steps) <= after_end - before_start - apart_at_least
    assert min(steps[1:4]) >= 0.03


def test_what_fails_apart_is_apart() -> None:
    began = time.perf_counter()
    timer = StepTimer(torch.device("cpu"))
    with contextlib.suppress(InterruptedError), timer.excluded():
        time.sleep(0.1)
        raise InterruptedError
    step = timer.end_step()
    assert 0 <= step <= time.perf_counter() - began - 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_work_that_a_gpu_has_yet_to_do_is_the_steps() -> None:
    timer = StepTimer(torch.device("cuda"))
    matrix = torch.randn(8192, 8192, device="cuda")

    def work() -> None:
        for _ in range(20):
            matrix @ matrix

    work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    needed = time.perf_counter() - began
    timer.start()
    work()  # started, not done
    with timer.excluded():
        pass
    assert timer.end_step() > 0.8 * needed
