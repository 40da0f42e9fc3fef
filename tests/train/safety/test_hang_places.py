"""A rank that waits for the others says in which collective: for real waits within torch, Megatron and DeepSpeed.

`place_of` knows the libraries' collectives by the files that they are in. A library that moves them fails here.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from parallel_runs import Trial, global_batches, local_micro_batches, start
from processes import run_ranks

from parallel.waiting import wait_for_collectives
from train.safety.tracked import Tracked
from train.safety.watchdog import _COLLECTIVES, _WAITING, place_of

LOOK_SECONDS, LATE_SECONDS = 1.5, 3.0
HERE = "tests/train/safety/test_hang_places.py"


def place_during(action: Callable[[], object]) -> str:
    """Runs the action in the main thread, and looks from another where it stands after a while."""
    main = threading.main_thread().ident
    assert main is not None
    places: list[str] = []

    def look() -> None:
        time.sleep(LOOK_SECONDS)
        places.append(place_of(sys._current_frames()[main]))

    thread = threading.Thread(target=look)
    thread.start()
    action()
    thread.join()
    return places[0]


def wait_in_torch(kind: str) -> str:
    """Waits in a collective for rank 1, which comes late."""
    value = torch.zeros(4)
    actions: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: dist.all_reduce(value),
        "all_gather": lambda: dist.all_gather([torch.empty(4) for _ in range(2)], value),
        "reduce": lambda: dist.reduce(value, dst=0),
        "broadcast": lambda: dist.broadcast(value, src=1),
        "barrier": dist.barrier,
        "wait_for_collectives": lambda: wait_for_collectives([dist.all_reduce(value, async_op=True)]),
    }
    if dist.get_rank() == 1:
        time.sleep(LATE_SECONDS)
    return place_during(actions[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce", "broadcast", "barrier", "wait_for_collectives"])
def test_a_wait_in_torch(kind: str) -> None:
    assert run_ranks(2, wait_in_torch, kind)[0].startswith(f"{kind} of {HERE}:")


def wait_in_an_engine(parallel: dict[str, Any], late: int) -> str:
    """Takes a step; rank `late` gets its first micro-batch late."""
    trial = Trial(parallel=parallel)
    mesh, parts = start(trial)
    batches = local_micro_batches(next(global_batches()), trial, mesh, parts)
    parts.engine.train_step(batches, lr=1e-3)  # imports and connections

    def arrive(index: int, count: int) -> None:
        if index == 0 and mesh.rank == late:
            time.sleep(LATE_SECONDS)

    return place_during(lambda: parts.engine.train_step(Tracked(batches, arrive), lr=1e-3))


@pytest.mark.slow
def test_a_wait_in_megatron_for_the_stage_before() -> None:
    place = run_ranks(2, wait_in_an_engine, {"pipeline": 2}, 0, timeout=120)[1]
    assert place.startswith("recv_forward of parallel/schedule.py:")


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_a_wait_in_deepspeed_for_a_data_rank(zero: int) -> None:
    place = run_ranks(2, wait_in_an_engine, {"data": 2, "zero": zero}, 1, timeout=120)[0]
    function, _, where = place.partition(" of ")
    assert where.startswith("parallel/engines/deepspeed_engine.py:")
    assert function.startswith(("all_reduce", "reduce_scatter", "all_gather", "reduce", "broadcast")), place


def test_the_files_of_collectives_exist() -> None:
    assert _WAITING.is_file()
    for name in _COLLECTIVES:
        package, _, rest = name.partition("/")
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert any((Path(folder) / rest).exists() for folder in spec.submodule_search_locations or ()), name
