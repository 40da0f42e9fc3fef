"""The end of a command that has trained the points of a sweep or a ladder: its last lines, and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from launcher.exit_codes import FAILED, STOPPED_EARLY

if TYPE_CHECKING:
    from launcher.sweep.points import Point
    from launcher.sweep.records import Record
    from launcher.sweep.runner import Outcome


def exit_by_outcome(points: Sequence[Point], known: Mapping[str, Record], outcome: Outcome | None) -> None:
    """Names the points that failed or diverged. Exits with 75 after a stop, else with 1 if there is such a point.

    `outcome`: None if nothing was left to train.
    """
    if outcome is not None and outcome.failures:
        print("failed (the same command tries them again):", file=sys.stderr)
        for failure in outcome.failures:
            print(f"  {failure.point.label}: {failure.reason}", file=sys.stderr)
    diverged = [point for point in points if point.digest in known and known[point.digest].diverged]
    if diverged:
        print(f"diverged: {'; '.join(point.label for point in diverged)}", file=sys.stderr)
    if outcome is not None and outcome.stopped:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(STOPPED_EARLY)
    if diverged or (outcome is not None and outcome.failures):
        raise SystemExit(FAILED)
