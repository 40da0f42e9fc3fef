"""Slow ranks: each rank's own time is compared with that of its peers, and those that are slow are named.

In a step all ranks wait for the slowest one, so `seconds_per_step` is the same on all of them. A rank's own time is
that of reading its rows and of its forward and backward passes (parallel/compute_timer.py), without the messages
between stages, the reduction of the gradients and the update. Its peers are the ranks of its pipeline stage, because
other stages have other layers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median_low

from parallel.compute_timer import ComputeTimer
from parallel.gather import gather_json
from parallel.mesh import Mesh
from settings.differences import listed
from train.run_folder.events import Events
from train.safety.rank_place import place_of_rank

WINDOW_STEPS = 50
_SLOW = 1.2  # times the median of its peers
_STILL_SLOW = 1.1  # for a rank that is named already, so that one near the limit is not named again and again
_MOST_NAMED = 12


@dataclass(frozen=True)
class RankSeconds:
    """The own time of one rank, in seconds a step."""

    place: str
    stage: int
    seconds: float


class SlowRanks:
    """The own times of this rank, and the comparison of all ranks every 50 steps. The first step warms up."""

    def __init__(self, compute_timer: ComputeTimer, mesh: Mesh, events: Events) -> None:
        self._compute_timer = compute_timer
        self._mesh = mesh
        self._events = events
        self._data_seconds = 0.0
        self._own_seconds: list[float] = []
        self._is_first_step = True
        self._named: frozenset[int] = frozenset()  # the slow ranks, as last recorded

    @contextmanager
    def reading_data(self) -> Iterator[None]:
        """Measures the first part of a step. Passes before it, of an evaluation, do not count."""
        self._compute_timer.take_seconds()
        began = time.perf_counter()
        yield
        self._data_seconds = time.perf_counter() - began

    def end_step(self, step: int) -> dict[str, float]:
        """Ends the own time of a step, whose loss is known. Every 50 steps it is a collective of all ranks.

        Returns the metrics of the 50 steps, and nothing after other steps or if the ranks have no peers.
        """
        own_seconds = self._data_seconds + self._compute_timer.take_seconds()
        if not self._is_first_step and self._mesh.tensor.size * self._mesh.data.size > 1:
            self._own_seconds.append(own_seconds)
        self._is_first_step = False
        if len(self._own_seconds) < WINDOW_STEPS:
            return {}
        mine = RankSeconds(
            place_of_rank(self._mesh), self._mesh.pipeline.rank, sum(self._own_seconds) / len(self._own_seconds)
        )
        self._own_seconds = []
        everyone = [RankSeconds(**found) for found in gather_json(asdict(mine))]
        medians = medians_of_stages(everyone)
        self._name_slow_ranks(everyone, medians, step)
        slowest = max(range(len(everyone)), key=lambda rank: everyone[rank].seconds / medians[rank])
        return {
            "rank_seconds/median": medians[slowest],
            "rank_seconds/slowest": everyone[slowest].seconds,
            "rank_seconds/slowest_rank": slowest,
        }

    def _name_slow_ranks(self, everyone: Sequence[RankSeconds], medians: Sequence[float], step: int) -> None:
        """Records the slow ranks if they are others than before."""
        ratios = [one.seconds / median for one, median in zip(everyone, medians, strict=True)]
        slow = [rank for rank, ratio in enumerate(ratios) if ratio > (_STILL_SLOW if rank in self._named else _SLOW)]
        if frozenset(slow) == self._named:
            return
        self._named = frozenset(slow)
        lines = [
            f"{everyone[rank].place}: {everyone[rank].seconds:.3g} s a step, {100 * (ratios[rank] - 1):.0f}% more than "
            f"the median of the ranks of its stage, {medians[rank]:.3g} s"
            for rank in slow
        ]
        message = f"no rank is slow any more, over the last {WINDOW_STEPS} steps"
        if slow:
            message = f"warning: slow ranks, over the last {WINDOW_STEPS} steps:\n{listed(lines, most=_MOST_NAMED)}"
        self._events.add("slow_ranks", message, step=step, ranks=slow, places=[everyone[rank].place for rank in slow])


def medians_of_stages(everyone: Sequence[RankSeconds]) -> list[float]:
    """Returns, for each rank, the median of the ranks of its stage: of two ranks, the faster one's time."""
    return [median_low([peer.seconds for peer in everyone if peer.stage == one.stage]) for one in everyone]
