"""The fingerprints that ranks compare, and the message if they differ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from launcher.processes.fingerprints import disagreement


@dataclass(frozen=True)
class Rank:
    rank: int
    node: str
    fingerprint: dict[str, Any]


SAME = {"optim.lr": 0.003, "device": "CPU", "forecast": None}
RANKS = [Rank(rank, f"node {rank // 2} (host-{rank // 2})", SAME) for rank in range(6)]


def differing(**changes: dict[str, Any]) -> str:
    return disagreement([replace(one, fingerprint=SAME | changes.get(f"rank_{one.rank}", {})) for one in RANKS])


def test_equal_ranks_agree() -> None:
    assert differing() == ""


def test_a_node_that_differs() -> None:
    change = {"optim.lr": 0.001}
    assert differing(rank_4=change, rank_5=change).splitlines()[:2] == [
        "the ranks do not agree on the run:",
        "  optim.lr: 0.003 on node 0 (host-0) and 1 more, 0.001 on node 2 (host-2)",
    ]


def test_ranks_of_one_node_that_differ() -> None:
    lines = differing(rank_1={"device": "H100", "forecast": "auto"}).splitlines()
    assert lines[1:3] == [
        '  device: "CPU" on rank 0 of node 0 (host-0) and 4 more, "H100" on rank 1 of node 0 (host-0)',
        '  forecast: null on rank 0 of node 0 (host-0) and 4 more, "auto" on rank 1 of node 0 (host-0)',
    ]
    assert lines[3].startswith("start every node with the same config")


def test_a_name_that_only_some_ranks_have_and_values_of_other_types() -> None:
    lines = differing(rank_2={"schedule.file": "a"}, rank_3={"forecast": False}).splitlines()
    assert lines[1].startswith("  forecast: null on rank 0 of node 0 (host-0) and 4 more, false on rank 3 of")
    assert lines[2].startswith('  schedule.file: absent on rank 0 of node 0 (host-0) and 4 more, "a" on rank 2 of')
