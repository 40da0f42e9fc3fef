"""Ranks of torchrun or srun meet before they train: real processes that agree, differ, are mistaken, or do not come."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from processes import lehr, run_ranks
from torch._C._distributed_c10d import TCPStore

from launcher.processes.meeting import meet
from launcher.processes.rank_info import RankInfo


@pytest.fixture
def port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def variables(rank: int, world_size: int, port: int | str) -> dict[str, str]:
    """Returns the variables of a rank that is alone on its node, as srun or a script of the user sets them."""
    values = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": 1, "GROUP_RANK": rank}
    return {name: str(value) for name, value in values.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }


def train(config: Path, *overrides: list[str], port: int) -> list[subprocess.CompletedProcess[str]]:
    """Runs `lehr train` as one rank for each list of overrides, all at once."""

    def run(rank: int) -> subprocess.CompletedProcess[str]:
        return lehr("train", config, *overrides[rank], env=variables(rank, len(overrides), port))

    with ThreadPoolExecutor(len(overrides)) as pool:
        return list(pool.map(run, range(len(overrides))))


def test_nodes_that_differ_are_refused_with_every_key_and_both_values(config: Path, port: int) -> None:
    done = train(config, ["optim.lr=1e-3"], ["train.steps=9"], port=port)
    node_0, node_1 = (f"node {rank} ({socket.gethostname()})" for rank in range(2))
    assert [one.returncode for one in done] == [2, 2]
    assert done[0].stderr.startswith("error: the ranks do not agree on the run:\n")
    assert f"\n  optim.lr: 0.001 on {node_0}, 0.003 on {node_1}\n" in done[0].stderr
    assert f"\n  train.steps: 8 on {node_0}, 9 on {node_1}\n" in done[0].stderr
    assert done[1].stderr == ""
    assert not (config.parent / "runs").exists()


TYPO = "model.hiden_size=64"


@pytest.mark.parametrize(
    ("overrides", "who"),
    [([[TYPO], [TYPO], [TYPO]], ""), ([[TYPO], [], []], ""), ([[], [], [TYPO]], "rank 2 on node 2 (")],
    ids=["all", "rank 0", "rank 2"],
)
def test_a_mistake_is_one_message_of_rank_0_whoever_has_it(
    config: Path, port: int, overrides: list[list[str]], who: str
) -> None:
    done = train(config, *(["train.global_batch_size=6", *each] for each in overrides), port=port)
    assert [one.returncode for one in done] == [2, 2, 2]
    assert done[0].stderr.startswith(f"error: {who}")
    assert 'did you mean "hidden_size"?' in done[0].stderr
    assert [one.stderr for one in done[1:]] == ["", ""]
    assert not (config.parent / "runs").exists()


def test_altered_shards_are_refused_on_all_ranks(config: Path, shards: Path, port: int) -> None:
    """The ranks divide the files among themselves: each of them finds one that is altered."""
    for name, finder in (("alpha/held_out", 0), ("alpha/train", 1)):
        (file,) = (shards / name).glob("*.ds")
        before = file.read_bytes()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        try:
            done = train(config, [], [], port=port)
        finally:
            file.write_bytes(before)
        assert [one.returncode for one in done] == [2, 2]
        who = f"rank 1 on node 1 ({socket.gethostname()}): " if finder else ""
        assert done[0].stderr.startswith(f"error: {who}{file} was altered")
        assert done[1].stderr == ""
        assert not (config.parent / "runs").exists()


@pytest.mark.slow
def test_ranks_that_agree_train(config: Path, port: int) -> None:
    done = train(config, ["train.steps=3"], ["train.steps=3"], port=port)
    assert [one.returncode for one in done] == [0, 0], done
    assert "done: 3 steps" in done[0].stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "waits"),
    [(0, "rank 0 waits for rank 1 of 2"), (1, "waits for rank 0 at MASTER_ADDR = 127.0.0.1, MASTER_PORT")],
)
def test_a_rank_that_does_not_come_is_named(config: Path, port: int, rank: int, waits: str) -> None:
    done = lehr("train", config, "train.rendezvous_seconds=6", env=variables(rank, 2, port))
    assert done.returncode == 1
    notice, error = done.stderr.splitlines()
    assert waits in notice
    assert waits in error
    assert "train.rendezvous_seconds = 6)" in error


@pytest.fixture
def taken_port() -> Iterator[int]:
    with closing(socket.create_server(("", 0))) as server:
        yield int(server.getsockname()[1])


def test_a_taken_port_is_one_message(config: Path, taken_port: int) -> None:
    done = lehr("train", config, env=variables(0, 2, taken_port))
    assert done.returncode == 2
    assert done.stderr == (
        f"error: MASTER_PORT = {taken_port} on {socket.gethostname()}: another process has it; "
        "set it to a port that is free on the first node\n"
    )


@pytest.mark.slow
def test_a_program_that_accepts_and_stays_silent_is_named_within_the_limit(config: Path, taken_port: int) -> None:
    done = lehr("train", config, "train.rendezvous_seconds=6", env=variables(1, 2, taken_port))
    assert done.returncode == 1
    notice, error = done.stderr.splitlines()
    for line in (notice, error):
        assert f"MASTER_PORT = {taken_port}: it accepts connections, but does not answer" in line


@pytest.mark.parametrize("port", ["99999", "0", "soon", "-1", ""])
def test_a_port_that_is_none_is_one_message(config: Path, port: str) -> None:
    done = lehr("train", config, env=variables(0, 2, port))
    assert done.returncode == 2
    assert done.stderr == (
        f'error: MASTER_PORT = "{port}" must be a whole number from 1 to 65535: '
        "set it to a port that is free on the first node\n"
    )


class NumberOfRank:
    """A last check in which each rank's share is its number."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.concluded: list[int] = []

    def share(self, stop: Callable[[], bool]) -> int:
        return self.rank

    def conclude(self, shares: Sequence[int]) -> None:
        self.concluded = list(shares)


def meet_twice() -> list[str]:
    """Returns what the other rank has written into the stores of two attempts that share one store."""
    rank = int(os.environ["RANK"])
    rank_info = RankInfo(rank, rank, 2, 2, 0, "127.0.0.1", int(os.environ["MASTER_PORT"]), "torchrun")
    shared = TCPStore("127.0.0.1", rank_info.master_port)
    read = []
    for attempt in ("first", "second"):
        if attempt == "second" and rank == 0:  # rank 1 finds the keys of the first attempt
            shared.wait(["rank 1 has begun its second attempt"])
        elif attempt == "second":
            shared.set("rank 1 has begun its second attempt", "")
        check = NumberOfRank(rank)
        store = meet(shared, rank_info, {"x": 1}, limit_seconds=60, last_check=lambda check=check: check)
        assert check.concluded == ([0, 1] if rank == 0 else [])
        store.set(f"from {rank}", f"{attempt} of {rank}")
        read.append(store.get(f"from {1 - rank}").decode())
    return read


def test_a_restart_does_not_take_the_word_of_an_earlier_attempt() -> None:
    assert run_ranks(2, meet_twice, join=False) == [
        ["first of 1", "second of 1"],
        ["first of 0", "second of 0"],
    ]
