"""The parts of a run, by which forgetting and adaptation are measured: its stages, and what comes after a branch."""

from __future__ import annotations

from data.batches.draw_plan import DrawPlan, PlannedStage
from launcher.run.config import RunConfig
from launcher.run.stages import draw_plan
from schedules.stage_lengths import first_steps
from train.metrics.continual import Part
from train.run_folder.branch_record import Origin


def parts_of(config: RunConfig, origin: Origin | None) -> list[Part]:
    """Returns the parts of a run; none if it is one part that neither continues nor replays another run.

    `origin`: the checkpoint of another run from which this one began.
    """
    if not config.stages and origin is None:
        return []
    plan = draw_plan(config)
    starts = {0, *first_steps(config.stage_steps()), *([origin.step] if origin else [])}
    parts = [_part(plan, start) for start in sorted(starts) if start < config.train.steps]
    return parts if len(parts) > 1 or parts[0].replayed else []


def _part(plan: DrawPlan, first_step: int) -> Part:
    stage = [stage for stage in plan.stages if stage.first_step <= first_step][-1]
    names = list(plan.sources)
    replayed = {
        pool.source
        for pool, weight in zip(plan.pools, stage.weights[len(names) :], strict=True)
        if weight and pool.of_earlier_run
    }
    return Part(first_step, frozenset(_drawn(names, stage)), frozenset(replayed))


def _drawn(names: list[str], stage: PlannedStage) -> list[str]:
    return [name for name, weight in zip(names, stage.weights, strict=False) if weight]
