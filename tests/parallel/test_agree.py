"""Ranks exchange values, by rank, and a failure of one is a failure of all."""

from __future__ import annotations

from typing import Any

import pytest
import torch.distributed as dist
from processes import RanksFailedError, run_ranks

from parallel.agree import agree
from parallel.gather import gather_json
from settings import RunError, UserError
from train.safety.nonfinite import DivergedError


def gather_on_a_rank() -> list[Any]:
    assert dist.group.WORLD is not None
    return gather_json({"é" * dist.get_rank(): [1.5, None, True]}, dist.group.WORLD)


def fail_on_a_rank(rank: int, user: bool) -> str:
    def action() -> int:
        if dist.get_rank() == rank:
            raise UserError("no such key") if user else OSError("the pen is empty")
        return dist.get_rank()

    assert dist.group.WORLD is not None
    try:
        agree(action, dist.group.WORLD)
    except (OSError, RunError, UserError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def diverge_on_rank_1() -> str:
    def action() -> None:
        if dist.get_rank() == 1:
            raise DivergedError("the run diverged")

    assert dist.group.WORLD is not None
    try:
        agree(action, dist.group.WORLD)
    except RunError as error:
        return error.kind
    return "nothing"


def raise_what_is_no_exception() -> None:
    def action() -> None:
        raise KeyboardInterrupt

    assert dist.group.WORLD is not None
    agree(action, dist.group.WORLD)


def test_every_ranks_value_by_rank() -> None:
    expected = [{"é" * rank: [1.5, None, True]} for rank in range(3)]
    assert run_ranks(3, gather_on_a_rank) == [expected] * 3


def test_a_failure_of_one_is_a_failure_of_all() -> None:
    assert run_ranks(2, fail_on_a_rank, 1, False) == ["RunError: rank 1: the pen is empty", "OSError: the pen is empty"]
    assert run_ranks(2, fail_on_a_rank, 0, True) == ["UserError: no such key"] * 2
    assert run_ranks(2, fail_on_a_rank, 5, True) == ["nothing"] * 2


def test_all_ranks_know_the_kind_of_a_failure() -> None:
    assert run_ranks(2, diverge_on_rank_1) == ["diverged", "diverged"]


def test_an_interrupt_is_not_held_back() -> None:
    with pytest.raises(RanksFailedError, match="KeyboardInterrupt"):
        run_ranks(1, raise_what_is_no_exception)
