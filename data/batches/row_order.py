"""The rows of a run: which sequence of which source each row reads, by the plan of its draws and the row alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.batches.draw_plan import DrawPlan
from data.batches.mixture import Int16s, Int64s, Mixture, MixtureStage
from data.batches.order import SequenceOrder
from data.batches.pool import PoolOrder


@dataclass(frozen=True)
class Rows:
    """Rows of a run; arrays are [r]."""

    sources: Int16s  # number of the source, by the plan's order of sources
    samples: Int64s  # sample number: in the run's own order, or in that of the earlier run for old data
    sequences: Int64s  # sequence number within the source
    replayed: np.typing.NDArray[np.bool_]  # whether the row is old data


class RowOrder:
    """Looks up the rows of a plan, in any order and from several threads."""

    def __init__(self, plan: DrawPlan) -> None:
        self.plan = plan
        self.mixture = plan_mixture(plan)
        names = list(plan.sources)
        self._pools = [PoolOrder(pool, seed=plan.seed) for pool in plan.pools]
        lanes = [(name, plan.seed, source.sequences) for name, source in plan.sources.items()]
        lanes += [(pool.source, pool.seen.seed, pool.seen.sequences) for pool in plan.pools]
        self._source_of_lane = np.array([names.index(name) for name, _, _ in lanes], dtype=np.int16)
        self._orders = [SequenceOrder(seed=seed, source=name, size=max(size, 1)) for name, seed, size in lanes]

    def rows(self, first_row: int, count: int) -> Rows:
        """Return the run's rows first_row to first_row + count."""
        lanes, samples = self.mixture.rows(first_row, count)
        sequences = np.empty(count, dtype=np.int64)
        for lane in np.unique(lanes):
            rows = lanes == lane
            if lane >= len(self.plan.sources):
                samples[rows] = self._pools[lane - len(self.plan.sources)].samples_of(samples[rows])
            sequences[rows] = self._orders[lane].sequences_of(samples[rows])
        return Rows(self._source_of_lane[lanes], samples, sequences, lanes >= len(self.plan.sources))


def plan_mixture(plan: DrawPlan) -> Mixture:
    """Return the mixture of the plan's lanes; its stages begin at rows, not at steps."""
    rows = plan.rows_per_step_global
    return Mixture([MixtureStage(stage.first_step * rows, stage.weights) for stage in plan.stages])
