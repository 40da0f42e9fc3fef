"""The schedule of a whole run: parts, each a schedule over some of its stages, as one function of the global step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from schedules.base import SCHEDULES, Schedule, ScheduleConfig
from schedules.stage_lengths import stage_lengths
from schedules.stages import in_sequence, rewarmed
from settings import UserError, parse
from train.stage_config import StageConfig

RUN_SCHEDULE = "schedule"


@dataclass(frozen=True)
class SchedulePart:
    """A schedule and the steps that it spans."""

    key: str  # of the schedule in the config
    schedule: ScheduleConfig
    peak_lr: float
    steps: int


def schedule_parts(
    schedule: ScheduleConfig, stages: Sequence[StageConfig], lengths: Sequence[int], *, peak_lr: float, total_steps: int
) -> list[SchedulePart]:
    """Returns the schedules of the run, one after the other. `lengths`: the steps of each stage.

    Stages without a schedule of their own that follow each other share the run's schedule, over their steps together.
    """
    if not stages:
        return [SchedulePart(RUN_SCHEDULE, schedule, peak_lr, total_steps)]
    parts: list[SchedulePart] = []
    for number, (stage, steps) in enumerate(zip(stages, lengths, strict=True)):
        if stage.schedule is not None:
            peak = peak_lr if stage.lr is None else stage.lr
            parts.append(SchedulePart(f"stages.{number}.schedule", stage.schedule, peak, steps))
        elif parts and parts[-1].key == RUN_SCHEDULE:
            parts[-1] = replace(parts[-1], steps=parts[-1].steps + steps)
        else:
            parts.append(SchedulePart(RUN_SCHEDULE, schedule, peak_lr, steps))
    return parts


def parts_of_plain(plain: Mapping[str, Any]) -> list[SchedulePart]:
    """Returns the parts of a plain config. Raises UserError, KeyError, TypeError or ValueError if it is none."""
    stages = [parse(StageConfig, stage, source="stages") for stage in plain.get("stages") or ()]
    lengths = stage_lengths(plain)
    if lengths is None:
        raise ValueError("a stage has no length")
    return schedule_parts(
        SCHEDULES.parse(plain["schedule"]),
        stages,
        lengths,
        peak_lr=plain["optim"]["lr"],
        total_steps=int(plain["train"]["steps"]),
    )


def build_schedule(parts: Sequence[SchedulePart]) -> Schedule:
    """Builds the schedule of the run. Raises UserError if the settings of a part do not fit its steps.

    After the first part a warm-up rises from the lr at which the part before ended.
    """
    built: list[Schedule] = []
    for part in parts:
        try:
            schedule = part.schedule.build(peak_lr=part.peak_lr, total_steps=part.steps)
        except UserError as error:
            if len(parts) == 1 and part.key == RUN_SCHEDULE:
                raise
            raise UserError(
                f"{part.key}, over {part.steps} steps with a peak lr of {part.peak_lr:g} (its stages' train.steps and "
                f"optim.lr): {error}"
            ) from None
        warmup_steps = part.schedule.stated_warmup()
        if built and warmup_steps:
            last = built[-1]
            schedule = rewarmed(schedule, warmup_steps=warmup_steps, from_lr=last(last.total_steps - 1))
        built.append(schedule)
    return in_sequence(built) if len(built) > 1 else built[0]
