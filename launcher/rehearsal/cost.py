"""The cost of a rehearsal before it starts: a formula fitted to what rehearsals took (benchmarks/rehearse.md)."""

from __future__ import annotations

from launcher.rehearsal.plan import Rehearsal
from launcher.run.config import RunConfig
from launcher.run.estimate import estimate_step, format_bytes
from settings.durations import format_duration

_ALONE_SECONDS = 6.0  # imports and checks before the ranks start, and the evaluation in one process after them
_RANK_SECONDS = 0.3  # of CPU time: its start, three steps of small operations, a checkpoint
_PAIR_SECONDS = 0.0095  # of CPU time for each other rank: connections, and collectives that wake it
_FLOPS_PER_SECOND = 2e10  # of one core, in products of small matrices
_PASSES = 4  # over a global batch: three steps, and an evaluation
_ALONE_BYTES, _RANK_BYTES = 512 * 2**20, 40 * 2**20  # a rank's own memory, without its model


def estimated_seconds(plan: Rehearsal, *, cores: int) -> float:
    """Returns about how long a rehearsal takes on cores that do nothing else."""
    return _ALONE_SECONDS + sum(_cpu_seconds(config) for config in (plan.first, plan.second)) / cores


def cost_line(plan: Rehearsal, *, cores: int) -> str:
    """Returns the line that says what a rehearsal costs."""
    layouts = " and then ".join(str(config.parallel.ranks) for config in (plan.first, plan.second))
    seconds = format_duration(estimated_seconds(plan, cores=cores))
    size = _ALONE_BYTES + max(_rank_bytes(config) for config in (plan.first, plan.second))
    many = f"{cores} free cores" if cores > 1 else "a free core"
    return (
        f"The rehearsal of {plan.config.run.name} takes about {seconds} on {many}, and {format_bytes(size)} of memory: "
        f"{layouts} ranks."
    )


def _cpu_seconds(config: RunConfig) -> float:
    ranks = config.parallel.ranks
    flops = _PASSES * estimate_step(config, config.model, world_size=ranks).flops
    return ranks * (_RANK_SECONDS + _PAIR_SECONDS * ranks) + flops / _FLOPS_PER_SECOND


def _rank_bytes(config: RunConfig) -> float:
    """Returns the memory of all ranks of a layout, if each had as much as the fullest."""
    ranks = config.parallel.ranks
    return ranks * (_RANK_BYTES + estimate_step(config, config.model, world_size=ranks).rank.total)
