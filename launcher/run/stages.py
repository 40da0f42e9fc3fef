"""The stages of a run: their first steps, their schedule as one function of the global step, and their data."""

from __future__ import annotations

from pathlib import Path

from data.batches.build_plan import build_plan
from data.batches.draw_plan import DrawPlan, Seen
from data.batches.training_data import DataStage, Replay, with_stages
from data.config import DataConfig
from data.shards.index import open_shards
from launcher.run.config import RunConfig
from schedules.base import Schedule
from schedules.stage_lengths import first_steps
from settings import UserError
from train.run_folder.seen_data import read_seen
from train.run_folder.start_record import recorded_replays
from train.run_schedule import SchedulePart, build_schedule, schedule_parts
from train.stage_config import ReplayConfig


def config_parts(config: RunConfig) -> list[SchedulePart]:
    """Returns the schedules of the run, one after the other (`schedule_parts`)."""
    return schedule_parts(
        config.schedule,
        config.stages,
        config.stage_steps(),
        peak_lr=config.optim.lr,
        total_steps=config.train.steps,
    )


def run_schedule(config: RunConfig) -> Schedule:
    """Builds the schedule of the run, a function of the global step. Raises UserError as `build_schedule` does."""
    return build_schedule(config_parts(config))


def stated_warmup(config: RunConfig) -> int | None:
    """Returns the steps of the first warm-up, with which the run begins; None if its schedule states none (a table)."""
    return config_parts(config)[0].schedule.stated_warmup()


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
