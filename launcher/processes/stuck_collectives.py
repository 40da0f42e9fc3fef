"""Compares what the ranks of a hanging run report of their collectives: which one is stuck, and who did not join it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from launcher.processes.rank_info import name_ranks
from parallel.flight_recorder import Collective, GroupProgress
from settings.differences import listed

_MOST_GROUPS = 8


def explain_collectives(
    reports: Mapping[int, Sequence[GroupProgress]], place: Callable[[int], str] = lambda rank: ""
) -> str:
    """Returns a line for each group that is stuck, indented by two spaces; "" if none is.

    `reports`: by rank, of those that report. `place` returns for a rank the words on its place, such as ` on node 1`.
    The lines are those of the cause, if it is known: the other groups wait for ranks that wait themselves.
    """
    return _Comparison(reports, place).explain()


class _Stuck(NamedTuple):
    """A line about the first collective of a group that has not ended."""

    line: str
    is_cause: bool  # else all ranks that are missing wait in another collective


class _Comparison:
    def __init__(self, reports: Mapping[int, Sequence[GroupProgress]], place: Callable[[int], str]) -> None:
        self._place = place
        self._reporting = set(reports)
        self._waiting = {rank for rank, progress in reports.items() if any(one.pending for one in progress)}
        self._groups: dict[str, dict[int, GroupProgress]] = {}
        for rank, progress in reports.items():
            for one in progress:
                self._groups.setdefault(one.group, {})[rank] = one

    def explain(self) -> str:
        found = [stuck for group in self._groups.values() if (stuck := self._explain_group(group)) is not None]
        causes = [stuck for stuck in found if stuck.is_cause] or found
        lines = [cause.line for cause in causes]
        if more := len(found) - len(causes):
            lines.append(f"{more} other group{'s wait' if more > 1 else ' waits'} in consequence")
        return listed(lines, most=_MOST_GROUPS, more="groups")

    def _explain_group(self, group: Mapping[int, GroupProgress]) -> _Stuck | None:
        """`group`: the progress of the members that report."""
        pending = {rank: one.pending for rank, one in group.items() if one.pending is not None}
        if not pending:
            return None
        number = min(collective.number for collective in pending.values())
        called: dict[str, list[int]] = {}
        for rank, collective in sorted(pending.items()):
            if collective.number == number:
                called.setdefault(_call(collective), []).append(rank)
        one = next(iter(group.values()))
        where = "of the group of all ranks" if one.name == "default_pg" else f"of the {one.name} group"
        if len(called) > 1:
            kinds = "; ".join(f"{call} on {name_ranks(ranks)}" for call, ranks in called.items())
            return _Stuck(f"collective {number} {where} is not the same on all ranks: {kinds}", is_cause=True)
        (call,) = called
        name = f"{call.partition(' ')[0]} {number} {where}"
        joined = [rank for rank in one.ranks if rank in group and group[rank].last.number >= number]
        missing = sorted({*one.ranks} - {*joined})
        if not missing:
            return _Stuck(f"{name}: all of its ranks joined, but it does not end", is_cause=True)
        standing = [rank for rank in missing if rank not in self._waiting]
        parts = [f"{name_ranks(joined)} joined", *self._missing_parts(group, standing or missing)]
        if standing and len(missing) > len(standing):
            parts.append(f"{len(missing) - len(standing)} more did not, and wait in another collective")
        return _Stuck(f"{name}: {'; '.join(parts)}", is_cause=bool(standing))

    def _missing_parts(self, group: Mapping[int, GroupProgress], missing: Sequence[int]) -> list[str]:
        """Returns the ranks that did not join, together if they joined the same collective last."""
        alike: dict[str, list[int]] = {}
        for rank in missing:
            if rank in group:
                last = group[rank].last
                alike.setdefault(f"did not, and last joined {last.name} {last.number}", []).append(rank)
            else:
                alike.setdefault("did not" if rank in self._reporting else "gave no answer", []).append(rank)
        return [f"{name_ranks(ranks, self._place)} {what}" for what, ranks in alike.items()]


def _call(collective: Collective) -> str:
    return f"{collective.name} of {collective.shapes}"
