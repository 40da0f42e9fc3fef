"""The helper that the tests of ranks stand on: it returns results by rank, shows failures, and never hangs."""

from __future__ import annotations

import os
import re
import signal
import sys
import time

import pytest
import torch
import torch.distributed as dist
from processes import RanksFailedError, run_ranks


def add_up(x: int) -> tuple[int, torch.Tensor]:
    value = torch.tensor([x + dist.get_rank()])
    dist.all_reduce(value)
    return dist.get_rank(), value


def raise_on(bad: int) -> None:
    print(f"rank {dist.get_rank()} was here")
    if dist.get_rank() == bad:
        raise ValueError("the pen is empty")
    dist.barrier()


def die_on(bad: int) -> None:
    if dist.get_rank() == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def hang_on(bad: int) -> int:
    if dist.get_rank() == bad:
        time.sleep(1000)
    return os.getpid()


def imported() -> tuple[bool, int, float]:
    """Returns whether the imports are done, the number of threads of torch, and the seconds computed until now."""
    done = "megatron.core.parallel_state" in sys.modules and "deepspeed" in sys.modules
    return done, torch.get_num_threads(), time.process_time()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_ranks_result_by_rank(world_size: int) -> None:
    results = run_ranks(world_size, add_up, 10)
    expected = 10 * world_size + sum(range(world_size))
    assert [rank for rank, _ in results] == list(range(world_size))
    assert all(int(value) == expected for _, value in results)


def test_the_failing_ranks_traceback_comes_first_with_its_output() -> None:
    with pytest.raises(RanksFailedError) as caught:
        run_ranks(2, raise_on, 1)
    text = str(caught.value)
    assert re.search(r"--- rank 1: Traceback(.|\n)*the pen is empty(.|\n)*rank 1 was here", text)
    assert text.index("--- rank 1") < text.index("--- rank 0")


def test_a_killed_rank_is_named() -> None:
    started = time.monotonic()
    with pytest.raises(RanksFailedError, match=r"rank 1: died with exit code -9"):
        run_ranks(2, die_on, 1, timeout=250)
    assert time.monotonic() - started < 200  # a few seconds, and not until the timeout


def test_a_hanging_rank_is_killed_and_its_stack_shown() -> None:
    with pytest.raises(RanksFailedError, match=r"(?s)rank 0: did not end.*hang_on"):
        run_ranks(2, hang_on, 0, timeout=3)


def test_ranks_start_with_the_imports_done() -> None:
    for done, threads, seconds in run_ranks(2, imported):
        assert (done, threads) == (True, 1)
        assert seconds < 1.0  # importing torch and Megatron alone takes three
