"""The progress of a sweep over all its points, and the remaining time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Sequence

from launcher.run.estimate import estimate_step
from launcher.run.preflight import model_with_vocabulary
from launcher.sweep.points import Point
from settings.durations import format_duration
from train.run_folder.folder import RunFolder

_LAST_BYTES = 64 * 1024  # of metrics.jsonl, which hold its last line
_MIN_SHARE_DONE = 0.02  # before that, an estimate of the remaining time would be a guess


class SweepProgress:
    """How far the points are. Each counts by the FLOPs of its steps, since points may differ in size."""

    def __init__(self, points: Sequence[Point], *, finished: Collection[str]) -> None:
        """`finished`: the digests of points that need no training; others may be trained in part."""
        self._flops = {point.digest: _flops(point) for point in points}
        self._shares = {point.digest: 1.0 if point.digest in finished else share_done(point) for point in points}
        self._running: dict[str, Point] = {}
        self._ended = len(finished)
        self._began = time.monotonic()
        self._share_before = self._share()

    def begin(self, point: Point) -> None:
        """Notes that a point runs."""
        self._running[point.digest] = point

    def end(self, point: Point) -> None:
        """Notes that a point has ended, whatever its outcome."""
        del self._running[point.digest]
        self._shares[point.digest] = 1.0
        self._ended += 1

    @property
    def counts(self) -> str:
        """The number of points that have ended, and of all: `[3/12]`."""
        return f"[{self._ended}/{len(self._flops)}]"

    def line(self) -> str:
        """Looks at the running points, and formats the progress as one line for the console."""
        for digest, point in self._running.items():
            self._shares[digest] = share_done(point)
        share, seconds = self._share(), time.monotonic() - self._began
        gained = share - self._share_before
        left = f", {format_duration(seconds * (1 - share) / gained)} left" if gained > _MIN_SHARE_DONE else ""
        return f"{self.counts} {len(self._running)} running, {share:.0%} of all{left}"

    def _share(self) -> float:
        done = sum(flops * self._shares[digest] for digest, flops in self._flops.items())
        return done / sum(self._flops.values())


def share_done(point: Point) -> float:
    """Returns the share of a point's steps that its metrics hold."""
    try:
        with RunFolder(point.config.run.path).metrics.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LAST_BYTES))
            step = json.loads(file.read().rpartition(b"\n")[0].rpartition(b"\n")[2])["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
    return min(1.0, float(step) / point.config.train.steps)


def _flops(point: Point) -> float:
    config = point.config
    step = estimate_step(config, model_with_vocabulary(config), world_size=config.parallel.ranks)
    return step.flops * config.train.steps
