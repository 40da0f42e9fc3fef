"""The stages of a run config: what is refused, the old form, the schedule over all stages, and earlier runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import make_shards, write_config

from launcher.run.config import RunConfig, load_run_config
from launcher.run.config_digest import config_digest
from launcher.run.input_hashes import inputs_of
from launcher.run.planned_schedule import planned_curve
from launcher.run.preflight import check_config
from launcher.run.schedule_change import schedule_change_warnings
from launcher.run.schedule_phases import phases_of, phases_on_record, schedule_with, with_phases
from launcher.run.stages import draw_plan, replayed_runs, run_schedule, training_data
from settings import UserError, to_yaml
from train.run_folder.folder import RunFolder
from train.run_folder.open_run import open_run
from train.run_folder.recorded_schedule import SchedulePhases
from train.run_folder.resume_check import check_run
from train.run_folder.seen_data import read_seen
from train.run_folder.start_record import Start
from train.state import TrainState

COSINE = {"name": "cosine", "warmup_steps": 2, "min_lr": 1e-4}
OLD = {"name": "old", "steps": 6, "mixture": {"alpha": 1}}
NEW = {"name": "new", "steps": 6, "mixture": {"beta": 1}}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("data"))


def write(folder: Path, shards: Path, *stages: dict[str, Any], **sections: dict[str, Any]) -> Path:
    path = write_config(folder, shards, **sections)
    plain = json.loads(path.read_text())
    if stages:
        del plain["train"]["steps"]
    path.write_text(json.dumps({**plain, "stages": stages}))
    return path


def start(
    config: RunConfig,
    *,
    step: int = 0,
    left_out: tuple[tuple[int, int], ...] = (),
    phases: dict[str, SchedulePhases] | None = None,
) -> RunFolder:
    """Records a start of the run, and a checkpoint's state."""
    open_run(
        config.run.path,
        config,
        Start(
            world_size=1,
            inputs=inputs_of(config),
            schedules=phases,
            draws=draw_plan(config),
            replayed=replayed_runs(config),
        ),
    ).release()
    folder = RunFolder(config.run.path)
    if step:
        path = folder.checkpoints / f"step-{step:08d}"
        path.mkdir(parents=True)
        (path / "state.json").write_text(json.dumps(TrainState(step=step, left_out=left_out).to_plain()))
        (folder.checkpoints / "latest").write_text(path.name + "\n")
    return folder


MISTAKES: list[tuple[list[dict[str, Any]], list[str], str]] = [
    ([OLD, {"name": "new"}], [], 'stages.1: stage "new" needs its length in steps or in tokens, and neither is given'),
    ([OLD, {**NEW, "tokens": 99}], [], 'stage "new" needs its length in steps or in tokens, and both are given'),
    ([OLD, {**NEW, "steps": 0}], [], "stages.1.steps = 0: must be at least 1"),
    ([OLD, {**NEW, "mixture": {"beta": -1}}], [], "stages.1.mixture.beta = -1: must be at least 0"),
    ([OLD, {**NEW, "mixture": {"beta": 0}}], [], "the weights must not all be 0"),
    ([OLD, {**NEW, "mixture": {"gamma": 1}}], [], 'stages.1.mixture: no shards of a source "gamma"'),
    ([OLD, {**NEW, "name": "old"}], [], "each needs a name of its own, not old, old"),
    ([OLD, {**NEW, "lr": 1e-3}], [], "is the peak of the stage's own schedule, and it has none"),
    ([OLD, {**NEW, "replay": {"share": 1.1}}], [], "stages.1.replay.share = 1.1: must be at most 1"),
    ([OLD, {**NEW, "replay": {"share": -0.1}}], [], "stages.1.replay.share = -0.1: must be at least 0"),
    ([OLD, {**NEW, "replay": {}}], [], "stages.1.replay.share: is required"),
    ([OLD, {**NEW, "replay": {"share": 0.1, "sources": {"beta": 1}}}], [], 'read nothing of a source "beta"'),
    ([OLD, {**NEW, "replay": {"share": 0.1, "draw": "old"}}], [], "stages.1.replay.draw"),
    ([{**OLD, "replay": {"share": 0.1}}, NEW], [], "stages.0.replay: no stage comes before the first one"),
    (
        [OLD, {**NEW, "replay": {"share": 0.1, "run": "nowhere"}}],
        [],
        "stages.1.replay.run = nowhere: nowhere is no run",
    ),
    ([OLD, NEW], ["train.steps=20"], "train.steps = 20: is decided by the stages, which take 12 steps together"),
    ([OLD, {**NEW, "schedule": {**COSINE, "warmup_steps": 9}}], [], "stages.1.schedule, over 6 steps with a peak lr"),
    ([OLD, {**NEW, "schedule": "cosin"}], [], 'did you mean "cosine"?'),
    ([OLD, NEW], ["data.stages=[{from_step: 3, mixture: {beta: 1}}]"], "is the old form of the section `stages`"),
    ([], ["data.stages=[{from_step: 3}]"], "data.stages = [{"),
    ([], ["data.stages=[{from_step: 3, mixture: {beta: 1}}, {from_step: 2, mixture: {beta: 1}}]"], "that grows"),
]


@pytest.mark.parametrize(("stages", "overrides", "message"), MISTAKES)
def test_a_mistake_is_refused_with_one_message(
    tmp_path: Path, shards: Path, stages: list[dict[str, Any]], overrides: list[str], message: str
) -> None:
    path = write(tmp_path, shards, *stages)
    with pytest.raises(UserError) as raised:
        check_config(load_run_config(path, overrides), world_size=1)
    assert message in str(raised.value)
    assert "train.steps: is required" not in str(raised.value)


def test_a_stage_may_be_given_in_tokens(tmp_path: Path, shards: Path) -> None:
    """A step has 8 rows of 32 tokens; 1000 tokens take four steps, rounded up. train.steps is the sum, and is shown."""
    path = write(tmp_path, shards, OLD, {"name": "new", "tokens": 1000, "mixture": {"beta": 1}})
    config = load_run_config(path)
    assert config.stage_steps() == [6, 4]
    assert config.train.steps == 10
    shown = tmp_path / "shown.yaml"
    shown.write_text(to_yaml(config))
    assert load_run_config(shown) == config
    with pytest.raises(UserError, match="is decided by the stages"):
        load_run_config(shown, ["stages.0.steps=7"])
    assert load_run_config(shown, ["stages.0.steps=7", "~train.steps"]).train.steps == 11


def test_data_stages_of_earlier_versions_are_read(
    tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, shards, data={"mixture": {"alpha": 1}})
    stages = "data.stages=[{from_step: 3, mixture: {beta: 1}}, {from_step: 50, mixture: {alpha: 2, beta: 1}}]"
    config = load_run_config(path, [stages])
    assert "notice: config" in capsys.readouterr().err
    assert [(stage.steps, stage.mixture) for stage in config.stages] == [(3, {"alpha": 1}), (9, {"beta": 1})]
    assert config.train.steps == 12
    without = load_run_config(path)
    assert np.array_equal(run_schedule(config).every_step(), run_schedule(without).every_step())
    assert [stage.first_step for stage in draw_plan(config).stages] == [0, 3]


def test_the_schedule_is_one_function_of_the_global_step(tmp_path: Path, shards: Path) -> None:
    """The first two stages share the run's schedule; the third warms up from where they ended; the fourth is constant.

    Against the formulas: linear warm-up, then a cosine from the peak to min_lr.
    """

    def cosine(peak: float, low: float, warmup: int, steps: int, start: float) -> list[float]:
        down = [
            low + (peak - low) * (1 + np.cos(np.pi * u / (steps - warmup))) / 2 for u in range(1, steps - warmup + 1)
        ]
        return [start + (peak - start) * n / warmup for n in range(1, warmup + 1)] + down

    path = write(
        tmp_path,
        shards,
        {**OLD, "steps": 10},
        {**NEW, "steps": 20},
        {"name": "rewarmed", "steps": 25, "schedule": {**COSINE, "warmup_steps": 5}, "lr": 1e-3},
        {"name": "constant", "steps": 4, "schedule": "constant", "lr": 2e-4},
        schedule={"name": "cosine", "warmup_steps": 6, "min_lr": 3e-4},
    )
    config = load_run_config(path)
    schedule = run_schedule(config)
    expected = [*cosine(3e-3, 3e-4, 6, 30, 0.0), *cosine(1e-3, 1e-4, 5, 25, 3e-4), *[2e-4] * 4]
    assert schedule.total_steps == 59
    assert np.allclose(schedule.every_step(), expected, rtol=1e-12)
    assert schedule(34) == 1e-3
    assert schedule(54) == 1e-4
    assert [schedule(step) for step in range(59)] == schedule.every_step().tolist()
    assert schedule(80) == 2e-4
    steps = np.array([0, 29, 30, 54, 55, 58])
    assert schedule.lr(steps).tolist() == schedule.every_step()[steps].tolist()
    planned = planned_curve(config)  # that of the laws
    assert planned.lr.tolist() == schedule.every_step().tolist()
    assert planned.warmup_steps == 6


def test_a_run_may_grow_by_a_stage_but_not_change_its_past(tmp_path: Path, shards: Path) -> None:
    """The end of the stage that the run is in may move; what begins later may change; a stage that ended stays."""

    def check(*stages: dict[str, Any]) -> RunConfig:
        config = load_run_config(write(tmp_path, shards, *stages))
        check_run(config.run.path, config, inputs_of(config))
        return config

    start(check(OLD, NEW), step=8)
    third = {"name": "third", "steps": 3}
    check(OLD, NEW, third)
    check({**OLD, "name": "renamed"}, {**NEW, "tokens": 9 * 256, "steps": None}, third)
    for stages, key in (
        ([{**OLD, "steps": 5}, NEW], r"stages\.0\.steps: 6 there, 5 here"),
        ([OLD, {**NEW, "replay": {"share": 0.5}}], r"stages\.1\.replay"),
        ([OLD, {**NEW, "mixture": {"alpha": 1}}], r"stages\.1\.mixture"),
        ([OLD], r"stages\.1\.mixture"),
    ):
        with pytest.raises(UserError, match=key):
            check(*stages)
    config = load_run_config(RunFolder(tmp_path / "runs" / "try").config, ["stages.1.steps=20"])
    assert config.train.steps == 26
    (warning,) = schedule_change_warnings(config, phases_on_record(config))
    assert warning.startswith("schedule spans stages of 26 steps, and of 12 when the run was last started: schedule ")
    assert "lr jumps at step 9" in warning


def test_a_run_replays_what_another_had_read_when_it_began(tmp_path: Path, shards: Path) -> None:
    """It keeps this in its own record: the other run may go on, or be gone."""
    first = load_run_config(write(tmp_path, shards, data={"mixture": {"alpha": 1}}))
    folder = start(first, step=4, left_out=((1, 2),))
    seen = read_seen(folder.path)
    assert seen.sources["alpha"].draws == ((0, 8), (24, 24))  # batches 0, 3, 4, 5 of 8 rows
    assert read_seen(Path(f"{folder.path}@4")) == read_seen(Path(f"{folder.path}@latest")) == seen
    with pytest.raises(UserError, match=r"@x is no run folder: .* STEP must be a whole number or `latest`"):
        read_seen(Path(f"{folder.path}@x"))
    replay = {"share": 0.25, "run": str(folder.path)}
    second = load_run_config(write(tmp_path, shards, {**NEW, "replay": replay}), ["run.name=second"])
    plan = draw_plan(second)
    assert plan.pools[0].seen == seen.sources["alpha"]
    start(second, step=2)
    start(first, step=9)
    assert read_seen(folder.path) != seen
    assert draw_plan(second) == plan
    with pytest.raises(UserError, match=r"has no checkpoint of step 5; it has 4, 9"):
        read_seen(Path(f"{folder.path}@5"))
    folder.record.unlink()
    assert training_data(second).mixtures().keys() == {"stages.0.mixture", "stages.0.replay.sources"}
    with pytest.raises(UserError, match=r"stages.0.replay.run = .* does not record which data the run draws"):
        draw_plan(load_run_config(second.run.path / "config.yaml", [f"run.folder={tmp_path}/elsewhere"]))


def test_a_stage_keeps_the_phases_that_it_had_when_it_began(tmp_path: Path, shards: Path) -> None:
    """Its anneal stays where it is if the stage becomes longer. One that has not begun may still change its length."""
    infinite = {"name": "infinite", "min_lr": 1e-4}
    first = {**OLD, "steps": 20, "schedule": infinite}
    config = load_run_config(write(tmp_path, shards, first, {**NEW, "steps": 20, "schedule": infinite}))
    recorded = phases_of(config)
    assert {key: each.phases["constant_end_step"] for key, each in recorded.items()} == {
        "stages.0.schedule": 16,
        "stages.1.schedule": 16,
    }
    start(config, step=10, phases=recorded)
    grown = load_run_config(write(tmp_path, shards, {**first, "steps": 30}, {**NEW, "steps": 8, "schedule": infinite}))
    kept = phases_on_record(grown)
    filled = with_phases(grown, kept)
    assert filled.stages[0].schedule == config.stages[0].schedule.with_phases(recorded["stages.0.schedule"].phases)
    assert filled.stages[1] == grown.stages[1]
    check_run(grown.run.path, grown, inputs_of(grown), schedule_of=lambda each: schedule_with(kept, each))
    assert np.array_equal(run_schedule(filled).every_step()[:16], run_schedule(config).every_step()[:16])


def test_stages_count_in_the_hash_of_a_sweeps_point(tmp_path: Path, shards: Path) -> None:
    def digest(*stages: dict[str, Any]) -> str:
        return config_digest(load_run_config(write(tmp_path, shards, *stages)))

    base = digest(OLD, NEW)
    assert digest(OLD, {**NEW, "replay": None}) == base  # a default that is written
    changed = [{**NEW, "replay": {"share": share}} for share in (0.0, 0.05, 0.25)]
    changed += [{**NEW, "steps": 7}, {**NEW, "schedule": COSINE}, {**NEW, "mixture": {"alpha": 1}}]
    assert len({base, *(digest(OLD, stage) for stage in changed)}) == 1 + len(changed)
