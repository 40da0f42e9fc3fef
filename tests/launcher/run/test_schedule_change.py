"""Another number of steps stretches the schedule: a start warns if lr jumps, and only then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from processes import lehr
from small_runs import write_config

from launcher.run.config import RunConfig
from launcher.run.input_hashes import inputs_of
from launcher.run.schedule_change import schedule_change_warnings
from launcher.run.schedule_phases import phase_notes, phases_on_record, schedule_with, with_phases
from settings import UserError, compose
from train.metrics.jsonl import read_metrics
from train.run_folder.folder import RunFolder
from train.run_folder.open_run import open_run
from train.run_folder.resume_check import check_run
from train.run_folder.start_record import Start
from train.state import TrainState

WSD = {"name": "wsd", "warmup_steps": 2, "min_lr": 3e-4, "decay_steps": 4}
SCHEDULES = {
    "cosine": {"name": "cosine", "warmup_steps": 2, "min_lr": 3e-4},
    "linear": {"name": "linear", "warmup_steps": 2, "min_lr": 3e-4},
    "wsd": WSD,
    "wsd, a share": {**WSD, "decay_steps": None},
    "constant": {"name": "constant", "warmup_steps": 2},
}


def write_started_run(folder: Path, shards: Path, schedule: dict[str, Any], step: int, **more: Any) -> Path:
    """Writes a run of 12 steps that has a checkpoint of `step`. Returns its config."""
    path = write_config(folder, shards)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schedule": schedule, **more}))
    config = compose(RunConfig, path)
    open_run(config.run.path, config, Start(world_size=1, inputs=inputs_of(config))).release()
    checkpoint = RunFolder(config.run.path).checkpoints / f"step-{step:08d}"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text(json.dumps(TrainState(step=step).to_plain()))
    return path


@pytest.mark.parametrize(
    ("schedule", "step", "steps", "jumps"),
    [
        ("cosine", 6, 24, True),
        ("cosine", 12, 24, True),  # it had ended, at min_lr
        ("cosine", 6, 12, False),
        ("cosine", 1, 24, False),  # within the warm-up
        ("linear", 6, 9, True),
        ("wsd", 6, 24, False),  # it stays at the peak
        ("wsd", 10, 24, True),  # it had begun to decay
        ("wsd", 6, 8, True),
        ("wsd, a share", 6, 24, False),
        ("constant", 6, 24, False),
    ],
)
def test_a_jump_is_a_warning_with_both_values(
    tmp_path: Path, shards: Path, schedule: str, step: int, steps: int, jumps: bool
) -> None:
    path = write_started_run(tmp_path, shards, SCHEDULES[schedule], step)
    config = compose(RunConfig, path, [f"train.steps={steps}"])
    then, now = (config.schedule.build(peak_lr=3e-3, total_steps=total)(step) for total in (12, steps))
    assert (then != now) == jumps
    warnings = schedule_change_warnings(config, phases_on_record(config))
    if not jumps:
        assert warnings == []
        return
    (line,) = warnings
    assert f"train.steps = {steps}, and 12 when" in line
    assert f"lr jumps at step {step + 1} to {now:.4g}, from the {then:.4g} of the old length" in line


def test_a_new_run_has_no_warning(tmp_path: Path, shards: Path) -> None:
    assert schedule_change_warnings(compose(RunConfig, write_config(tmp_path, shards)), {}) == []


def continued(config: RunConfig) -> None:
    """Checks that the run goes on with a config, as a start does."""
    phases = phases_on_record(config)
    check_run(config.run.path, config, inputs_of(config), schedule_of=lambda each: schedule_with(phases, each))


def test_a_longer_run_keeps_its_recorded_phases_and_may_state_later_ones(tmp_path: Path, shards: Path) -> None:
    """Of 12 steps the infinite schedule is constant from step 2 to 10; a run of 24 steps keeps both."""
    path = write_started_run(tmp_path, shards, {"name": "infinite", "warmup_steps": 2, "min_lr": 3e-4}, 9)
    config = compose(RunConfig, path, ["train.steps=24"])
    phases = phases_on_record(config)
    assert phases["schedule"].phases == {"cooldown_end_step": 2, "constant_end_step": 10}
    longer = with_phases(config, phases)
    assert longer.schedule.phases(24) == phases["schedule"].phases != config.schedule.phases(24)
    (note,) = phase_notes(config, phases)
    assert "recorded when it had 12 steps: schedule.cooldown_end_step = 2, schedule.constant_end_step = 10" in note
    continued(config)
    stated = compose(RunConfig, path, ["train.steps=24", "schedule.constant_end_step=20"])
    continued(stated)  # the 9 steps taken keep their lr
    assert "constant_end_step" not in phase_notes(stated, phases)[0]
    rewritten = compose(RunConfig, path, ["train.steps=24", "schedule.cooldown_end_step=5"])
    with pytest.raises(UserError, match=r"(?s)schedule.cooldown_end_step: .*the schedule may change where the lr of"):
        continued(rewritten)
    shorter = compose(RunConfig, path, ["train.steps=9"])
    with pytest.raises(UserError, match=r"(?s)phases must follow .* recorded when it had 12 steps"):
        with_phases(shorter, phases)


def test_a_phase_that_is_stated_anew_stretches_nothing(tmp_path: Path, shards: Path) -> None:
    """The constant phase ends at step 10 of 12; it goes on to the end, by the user's own words."""
    path = write_started_run(tmp_path, shards, {"name": "infinite", "warmup_steps": 2, "min_lr": 3e-4}, 10)
    config = compose(RunConfig, path, ["schedule.constant_end_step=12"])
    continued(config)
    assert schedule_change_warnings(config, phases_on_record(config)) == []


def test_another_schedule_may_replace_one_that_gave_the_same_lr_so_far(tmp_path: Path, shards: Path) -> None:
    path = write_started_run(tmp_path, shards, SCHEDULES["constant"], 6)
    same = compose(RunConfig, path, ["schedule.name=wsd", "schedule.decay_steps=6"])
    continued(same)
    other = compose(RunConfig, path, ["schedule.name=wsd", "schedule.decay_steps=7"])
    with pytest.raises(UserError, match=r"schedule\.name"):
        continued(other)


@pytest.mark.slow
def test_the_warning_has_the_step_and_the_lr_of_the_metrics(tmp_path: Path, shards: Path) -> None:
    path = write_config(tmp_path, shards)
    first = lehr("train", path, "train.steps=4")
    assert first.returncode == 0, first.stderr
    assert "lr jumps" not in first.stderr
    longer = lehr("train", path, "train.steps=8")
    assert longer.returncode == 0, longer.stderr
    lr = {line["step"]: line["lr"] for line in read_metrics(tmp_path / "runs/try/metrics.jsonl") if "lr" in line}
    assert f"lr jumps at step 5 to {lr[5]:.4g}, from the {lr[4]:.4g} of" in longer.stderr  # it had ended: lr stays


def test_a_longer_stage_keeps_the_recorded_phases_of_its_own_schedule(tmp_path: Path, shards: Path) -> None:
    stages = [{"name": "old", "steps": 2}, {"name": "new", "steps": 10, "schedule": {"name": "wsd", "warmup_steps": 1}}]
    path = write_started_run(tmp_path, shards, SCHEDULES["constant"], 7, stages=stages)
    config = compose(RunConfig, path, ["stages.1.steps=40", "train.steps=42"])
    phases = phases_on_record(config)
    assert phases["stages.1.schedule"].phases == {"decay_steps": 2}
    continued(config)
    (note,) = phase_notes(config, phases)
    assert "stages.1.schedule.decay_steps = 2" in note
    schedule = schedule_with(phases, config)
    assert {schedule(step) for step in range(2, 40)} == {3e-3}  # the last two steps decay, and not a fifth of forty
    assert schedule(40) < 3e-3
