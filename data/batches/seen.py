"""The data that a run has read up to a batch, by arithmetic alone: from the plan of its draws and the batches left out.

A sample counts as seen from the first pass over its source on; later passes read the same sequences again. Old data
that a run replayed was seen before, and stays seen. What the draw `all` read beyond that is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from data.batches.draw_plan import DrawPlan, Seen, SeenSource
from data.batches.draws import Draw, Draws, at_places, total, union, without
from data.batches.pool import unseen_draws
from data.batches.row_order import plan_mixture
from settings import UserError


def seen_by(plan: DrawPlan, *, batches: int, left_out: Sequence[tuple[int, int]] = ()) -> Seen:
    """Return what the batches 0 to `batches` - 1 read, but for those left out: ranges of first and last batch number.

    Raises UserError if one source was read in the orders of two seeds, so that ranges of samples do not name it.
    """
    mixture, rows = plan_mixture(plan), plan.rows_per_step_global
    ends = mixture.counts(batches * rows).tolist()
    holes = [
        (mixture.counts(first * rows), mixture.counts(min(last + 1, batches) * rows))
        for first, last in left_out
        if first < batches
    ]
    found: dict[str, list[SeenSource]] = {}
    earlier_rows: dict[str, int] = {}  # of each source, read by earlier runs
    for lane, end in enumerate(ends):
        read = without(Draw(0, end), [Draw(int(a[lane]), int(b[lane] - a[lane])) for a, b in holes])
        if not total(read):
            continue
        if lane < len(plan.sources):
            name, source = list(plan.sources.items())[lane]
            part = SeenSource(
                seed=plan.seed,
                sequences=source.sequences,
                sha256=source.sha256,
                rows=total(read),
                draws=_up_to(read, source.sequences),
            )
        else:
            pool = plan.pools[lane - len(plan.sources)]
            name, part = pool.source, pool.seen
            if pool.draw == "unseen_first":
                unseen = unseen_draws(pool)
                new = [draw for places in _up_to(read, total(unseen)) for draw in at_places(unseen, places)]
                part = part.model_copy(update={"draws": union([*part.draws, *new])})
            earlier_rows[name] = max(earlier_rows.get(name, 0), part.rows if pool.of_earlier_run else 0)
            part = part.model_copy(update={"rows": total(read)})
        found.setdefault(name, []).append(part)
    sources = {name: _joined(name, parts, earlier_rows.get(name, 0)) for name, parts in sorted(found.items())}
    return Seen(
        seq_length=plan.seq_length,
        tokenizer=plan.tokenizer,
        sources={name: source for name, source in sources.items() if source.draws},
    )


def _up_to(draws: Draws, end: int) -> Draws:
    """Return the samples below `end`: those of the first pass."""
    return tuple(Draw(draw.first, min(draw.end, end) - draw.first) for draw in draws if draw.first < end)


def _joined(name: str, parts: Sequence[SeenSource], earlier_rows: int) -> SeenSource:
    """Return one record of a source that several lanes read."""
    first = parts[0]
    if any(part.seed != first.seed for part in parts):
        raise UserError(
            f'source "{name}" was read both in the order of this run and in that of an earlier run, so what was seen '
            "of it is not known by ranges of samples; name the earlier run in replay.run, or leave the source out of "
            "replay.sources"
        )
    return first.model_copy(
        update={
            "rows": earlier_rows + sum(part.rows for part in parts),
            "draws": union(draw for part in parts for draw in part.draws),
        }
    )
