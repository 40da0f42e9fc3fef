"""The stages of a run: their first steps, their schedule as one function of the global step, and their data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.batches.build_plan import build_plan
from data.batches.draw_plan import DrawPlan, Seen
from data.batches.training_data import DataStage, Replay, with_stages
from data.config import DataConfig
from data.shards.index import open_shards
from launcher.run.config import RunConfig
from schedules.base import Schedule, ScheduleConfig
from schedules.stage_lengths import first_steps
from schedules.stages import in_sequence, rewarmed
from settings import UserError
from train.run_folder.seen_data import read_seen
from train.run_folder.start_record import recorded_replays
from train.stage_config import ReplayConfig


@dataclass(frozen=True)
class SchedulePart:
    """A schedule and the stages that it spans."""

    key: str  # of the schedule in the config
    schedule: ScheduleConfig
    peak_lr: float
    steps: int


def schedule_parts(config: RunConfig) -> list[SchedulePart]:
    """Returns the schedules of the run, one after the other.

    Stages without a schedule of their own that follow each other share the run's schedule, over their steps together.
    """
    if not config.stages:
        return [SchedulePart("schedule", config.schedule, config.optim.lr, config.train.steps)]
    parts: list[SchedulePart] = []
    shares = False  # whether the stage before has the run's schedule
    for number, (stage, steps) in enumerate(zip(config.stages, config.stage_steps(), strict=True)):
        if stage.schedule is not None:
            peak_lr = config.optim.lr if stage.lr is None else stage.lr
            parts.append(SchedulePart(f"stages.{number}.schedule", stage.schedule, peak_lr, steps))
        elif shares:
            last = parts.pop()
            parts.append(SchedulePart(last.key, last.schedule, last.peak_lr, last.steps + steps))
        else:
            parts.append(SchedulePart("schedule", config.schedule, config.optim.lr, steps))
        shares = stage.schedule is None
    return parts


def run_schedule(config: RunConfig) -> Schedule:
    """Builds the schedule of the run, a function of the global step.

    After the first stage a warm-up rises from the lr at which the stage before ended. Raises UserError if the settings
    do not fit the steps that they span.
    """
    built: list[Schedule] = []
    for part in schedule_parts(config):
        try:
            schedule = part.schedule.build(peak_lr=part.peak_lr, total_steps=part.steps)
        except UserError as error:
            if not config.stages:
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


def stated_warmup(config: RunConfig) -> int | None:
    """Returns the steps of the first warm-up, with which the run begins; None if its schedule states none (a table)."""
    return schedule_parts(config)[0].schedule.stated_warmup()


def training_data(config: RunConfig) -> DataConfig:
    """Returns the `data` section with the stages of the run, and with what earlier runs have read.

    A run that has begun keeps what it recorded of earlier runs: they may have gone on since, or be gone. Raises
    UserError for an earlier run that does not say what it has read.
    """
    if not config.stages:
        return config.data
    stages = []
    for number, (stage, first_step) in enumerate(zip(config.stages, first_steps(config.stage_steps()), strict=True)):
        key = f"stages.{number}.replay"
        replay = None
        if stage.replay is not None and stage.replay.share:
            replay = Replay(
                key=key,
                share=stage.replay.share,
                weights=stage.replay.sources,
                draw=stage.replay.draw,
                earlier=_earlier(config, stage.replay, key),
            )
        own = f"stages.{number}.mixture" if stage.mixture else "data.mixture"
        stages.append(DataStage(own, first_step, stage.mixture or config.data.mixture, replay))
    return with_stages(config.data, stages)


def draw_plan(config: RunConfig) -> DrawPlan:
    """Builds the plan of the run's draws. Raises UserError as `build_plan` does."""
    data = training_data(config)
    return build_plan(
        data,
        open_shards(data),
        seed=config.run.seed,
        seq_length=config.train.seq_length,
        rows_per_step_global=config.train.global_batch_size,
    )


def replayed_runs(config: RunConfig) -> dict[str, Seen]:
    """Returns what the earlier runs of the config had read, by their absolute paths: a run records it at its start."""
    found: dict[str, Seen] = {}
    for number, stage in enumerate(config.stages):
        if stage.replay is not None and stage.replay.share and stage.replay.run is not None:
            seen = _earlier(config, stage.replay, f"stages.{number}.replay")
            assert seen is not None
            found[_place(stage.replay.run)] = seen
    return found


def _earlier(config: RunConfig, replay: ReplayConfig, key: str) -> Seen | None:
    if replay.run is None:
        return None
    recorded = recorded_replays(config.run.path).get(_place(replay.run))
    if recorded is not None:
        return recorded
    try:
        return read_seen(replay.run)
    except UserError as error:
        raise UserError(f"{key}.run = {replay.run}: {error}") from None


def _place(run: Path) -> str:
    return str(run.absolute())
