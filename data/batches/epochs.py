"""Counts how often a run reads its sources: the rows that the mixture gives to each, over those that it has."""

from __future__ import annotations

from data.batches.draw_plan import DrawPlan
from data.batches.pool import PoolOrder
from data.batches.row_order import plan_mixture


def epochs_by_source(plan: DrawPlan, *, steps: int) -> dict[str, float]:
    """Returns how many times the first `steps` steps read each source and each pool of old data that they draw from."""
    rows = plan_mixture(plan).expected_rows(steps * plan.rows_per_step_global)
    sizes = [source.sequences for source in plan.sources.values()]
    sizes += [PoolOrder(pool, seed=plan.seed).size for pool in plan.pools]
    names = [*plan.sources, *(f"{pool.source} (replay, {pool.draw})" for pool in plan.pools)]
    epochs: dict[str, float] = {}
    for name, size, count in zip(names, sizes, rows, strict=True):
        if count:
            epochs[name] = max(epochs.get(name, 0.0), count / size)
    return epochs
