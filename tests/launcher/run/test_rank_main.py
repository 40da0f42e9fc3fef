"""Ends of a rank before its training loop: another rank is stuck in the process groups, or rank 0 has an error."""

from __future__ import annotations

import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest
from forked_lehr import ForkedLehr
from processes import start_lehr

STUCK = """
import ctypes
import launcher.run.rank_main as rank_main
import torch.distributed as dist
make_mesh = rank_main.make_mesh
def stuck(*arguments, **keywords):
    if dist.get_rank() == 1:
        print("is stuck", flush=True)
        ctypes.CDLL(None).pause()
    if dist.get_rank() == 0:
        print("makes its groups", flush=True)
    return make_mesh(*arguments, **keywords)
rank_main.make_mesh = stuck
"""
REFUSED = """
import launcher.run.rank_main as rank_main
from settings import UserError
def refuse(*arguments, **keywords):
    raise UserError("somebody else has taken the folder")
rank_main.open_run = refuse
"""


def start(code: str, config: Path, *overrides: str, env: dict[str, str] | None = None) -> ForkedLehr:
    return start_lehr("train", config, *overrides, before=code, env={"GLOO_SOCKET_IFNAME": "lo", **(env or {})})


@pytest.mark.slow
def test_a_rank_that_is_stuck_in_the_process_groups_is_a_hang(config: Path) -> None:
    """The limit is that of the rendezvous, not that of collectives (half an hour)."""
    process = start(STUCK, config, "parallel.data=2", "train.rendezvous_seconds=8")
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "no progress for 8 s at making the process groups" in errors
    log = (config.parent / "runs" / "try" / "logs" / "rank-00001.log").read_text()
    assert "is stuck" in log


@pytest.mark.slow
def test_a_stop_signal_ends_ranks_that_are_stuck_in_the_process_groups(config: Path) -> None:
    process = start(STUCK, config, "parallel.data=2")
    assert process.stdout is not None
    assert process.stdout.readline() == "makes its groups\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert errors.endswith("ended by SIGTERM before there was anything to save\n")


@pytest.mark.slow
def test_an_error_of_rank_0_alone_is_one_message_and_ends_all_ranks(config: Path) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [start(REFUSED, config, env={**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    errors = [rank.communicate(timeout=100)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2], errors
    assert [each.count("somebody else has taken the folder") for each in errors] == [1, 0], errors
    assert not any("Traceback" in each for each in errors)
