"""A start says at which step it begins, and erases nothing that no checkpoint replaces."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from test_run_folder import make

from train.run_folder.beginning import begin
from train.run_folder.folder import RunFolder
from train.run_folder.open_run import open_run
from train.run_folder.resume_check import check_run
from train.run_folder.start_record import Start
from train.state import TrainState


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    open_run(tmp_path / "try", make(), Start(world_size=1)).release()
    return RunFolder(tmp_path / "try")


def log(folder: RunFolder, steps: range, *, more: str = "") -> str:
    """Writes metrics of these steps, and `more` at the end."""
    text = "".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in steps) + more
    folder.metrics.write_text(text)
    return text


def names(folder: RunFolder) -> set[str]:
    return set(os.listdir(folder.path)) - {"config.yaml", "run.json", "checkpoints", "logs"}


def test_a_new_run_and_one_that_was_stopped_before_its_first_checkpoint(folder: RunFolder) -> None:
    assert begin(folder, None, total_steps=9) == ("Starts at step 1: the run folder is new.", [])
    open_run(folder.path, make(), Start(world_size=1)).release()
    line, _ = begin(folder, None, total_steps=9)
    assert line == "Starts at step 1: the run folder has no checkpoint yet."
    assert names(folder) == set()


def test_metrics_without_a_checkpoint_are_kept(folder: RunFolder) -> None:
    texts = []
    for number in (1, 2):
        texts.append(log(folder, range(1, 4 + number), more='{"step": 9, "lo'))
        folder.tensorboard.mkdir()
        (folder.tensorboard / "events").write_text(str(number))
        line, warnings = begin(folder, None, total_steps=9)
        assert line.endswith(
            f"has no checkpoint. What an earlier start logged, up to step {3 + number}, is kept as "
            f"metrics-{number}.jsonl and tensorboard-{number}."
        )
        assert warnings == []
    assert names(folder) == {"metrics-1.jsonl", "metrics-2.jsonl", "tensorboard-1", "tensorboard-2"}
    assert [folder.metrics_kept(number).read_text() for number in (1, 2)] == texts
    assert (folder.tensorboard_kept(2) / "events").read_text() == "2"


@pytest.mark.parametrize(
    ("state_step", "logged", "line"),
    [
        (4, range(1, 5), "Goes on from step 4: checkpoint step-00000004 is the newest complete one."),
        (4, range(1, 8), "checkpoint step-00000004 is the newest complete one. Steps 5 to 7 are taken again."),
        (0, range(1, 1), "Starts at step 1 with the weights of checkpoint step-00000000."),
        (9, range(1, 10), "Nothing is left to train: checkpoint step-00000009 has taken all 9 steps."),
    ],
)
def test_a_checkpoint_is_named(folder: RunFolder, state_step: int, logged: range, line: str) -> None:
    text = log(folder, logged)
    found, warnings = begin(folder, TrainState(step=state_step), total_steps=9)
    assert found.endswith(line)
    assert warnings == []
    assert names(folder) == {"metrics.jsonl"}
    assert folder.metrics.read_text() == text


def test_metrics_that_are_gone_or_garbled_are_warned_of(folder: RunFolder) -> None:
    _, (gone,) = begin(folder, TrainState(step=4), total_steps=9)
    assert "holds none of the steps so far, and the checkpoint is of step 4" in gone
    log(folder, range(1, 3))
    _, (short,) = begin(folder, TrainState(step=4), total_steps=9)
    assert "ends at step 2, and the checkpoint is of step 4" in short
    text = log(folder, range(1, 4), more='garbage\n{"no step": 1}\n{"step": 4}\n{"step": 5, "lo')
    _, (garbled,) = begin(folder, TrainState(step=4), total_steps=9)
    assert "2 garbled lines" in garbled
    assert folder.metrics_kept(1).read_text() == text
    assert folder.metrics.read_text() == text


def test_a_held_out_loss_that_was_cut_off_is_warned_of(folder: RunFolder) -> None:
    """The last line is the evaluation of the checkpoint's own step."""
    state = TrainState(step=4, evaluated_step=4)
    log(folder, range(1, 5), more='{"step": 4, "held_out/lo')
    _, (lost,) = begin(folder, state, total_steps=9)
    assert "has no held-out loss of step 4, which the checkpoint has evaluated" in lost
    for line in ('{"step": 4, "held_out/loss": 3.5}\n', '{"step": 4, "held_out/loss": null}\n'):
        log(folder, range(1, 5), more=line)
        assert begin(folder, state, total_steps=9)[1] == []
    log(folder, range(1, 5))
    assert begin(folder, TrainState(step=4), total_steps=9)[1] == []  # stopped within its evaluation, made anew


def test_a_lost_record_of_starts_is_warned_of(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert capsys.readouterr().err == ""
    folder.record.unlink()
    open_run(folder.path, make(), Start(world_size=1)).release()
    assert "run.json is missing: nothing says with which data the run began" in capsys.readouterr().err
    folder.record.write_text("{")
    open_run(folder.path, make(), Start(world_size=1)).release()
    assert "run.json cannot be read and is kept as run.unreadable" in capsys.readouterr().err


def test_a_start_that_was_killed_at_once_leaves_a_folder_that_is_new(folder: RunFolder) -> None:
    folder.config.unlink()  # the lease is taken before the config is written
    check_run(folder.path, make())
