"""The data that a plan draws up to a batch: to see whether two runs have the same past."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from data.batches.draw_plan import DrawPlan


@dataclass(frozen=True)
class PastStage:
    """The shares of the data from a step on; a source by its name, old data by source and draw too."""

    first_step: int
    shares: dict[str, Fraction]
    replays: bool  # whether some of it is old data

    def __str__(self) -> str:
        return ", ".join(f"{name} {100 * float(share):.3g}%" for name, share in self.shares.items())


@dataclass(frozen=True)
class PastData:
    """The stages of the data up to a batch, each different from the one before, and the hashes of its sources."""

    stages: tuple[PastStage, ...]
    hashes: dict[str, str]

    def __str__(self) -> str:
        return "; ".join(f"from step {stage.first_step + 1} on {stage}" for stage in self.stages)


def past_data(plan: DrawPlan, *, batches: int) -> PastData:
    """Returns the data of the batches 0 to `batches` - 1 of a run."""
    lanes = [(name, name) for name in plan.sources]
    for pool in plan.pools:
        whose = "an earlier run" if pool.of_earlier_run else "this run"
        lanes.append((f"{pool.source} (replay of {whose}, {pool.draw})", pool.source))
    stages: list[PastStage] = []
    hashes: dict[str, str] = {}
    for stage in plan.stages:
        if stage.first_step >= batches:
            break
        total = sum(stage.weights)
        drawn = [(*lane, weight) for lane, weight in zip(lanes, stage.weights, strict=False) if weight]
        shares = {label: Fraction(weight, total) for label, _, weight in drawn}
        hashes |= {source: plan.sources[source].sha256 for _, source, _ in drawn}
        if not stages or stages[-1].shares != shares:
            stages.append(PastStage(stage.first_step, shares, any(label != source for label, source, _ in drawn)))
    return PastData(tuple(stages), hashes)
