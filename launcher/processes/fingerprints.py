"""Compares the fingerprints of ranks, name by name: what must be the same on all ranks of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from settings.differences import ABSENT, listed, show

_MOST_DIFFERENCES = 12
_REMEDY = (
    "start every node with the same config and the same KEY=VALUE, shards, code and packages, on devices of one kind"
)


class Described(Protocol):
    """A rank and its fingerprint."""

    @property
    def rank(self) -> int: ...
    @property
    def node(self) -> str: ...
    @property
    def fingerprint(self) -> Mapping[str, Any]: ...


def disagreement(ranks: Sequence[Described]) -> str:
    """Returns a message with every name whose value differs between ranks, with the values; "" if none differs."""
    first = ranks[0].fingerprint
    names = dict.fromkeys(name for one in ranks if one.fingerprint != first for name in (*first, *one.fingerprint))
    lines = [line for name in names if (line := _difference(name, ranks))]
    if not lines:
        return ""
    return "\n".join(["the ranks do not agree on the run:", listed(lines, most=_MOST_DIFFERENCES), _REMEDY])


def _difference(name: str, ranks: Sequence[Described]) -> str:
    """Returns `optim.lr: 0.003 on node 0 (a), 0.001 on node 1 (b)`, or "" if all ranks have the same value."""
    holders: dict[str, list[Described]] = {}
    for one in ranks:
        holders.setdefault(show(one.fingerprint.get(name, ABSENT)), []).append(one)
    if len(holders) == 1:
        return ""
    groups = list(holders.values())
    nodes = [{one.node for one in group} for group in groups]
    by_node = sum(map(len, nodes)) == len(set().union(*nodes))
    places = [[one.node if by_node else f"rank {one.rank} of {one.node}" for one in group] for group in groups]
    return f"{name}: " + ", ".join(
        f"{value} on {_first_of(list(dict.fromkeys(where)))}" for value, where in zip(holders, places, strict=True)
    )


def _first_of(places: Sequence[str]) -> str:
    return places[0] + (f" and {len(places) - 1} more" if len(places) > 1 else "")
