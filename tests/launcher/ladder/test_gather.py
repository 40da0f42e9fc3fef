"""Runs that have ended elsewhere get their lines, and one that was stopped within its last evaluation does not."""

from __future__ import annotations

import json
from pathlib import Path

from made_runs import make_base, make_ladder

from launcher.ladder.gather import gather_finished
from launcher.sweep.points import Point
from launcher.sweep.records import read_records
from train.checkpoint.manifest import folder_name


def end_run(point: Point, *, held_out: bool) -> None:
    """Writes what is left of a run that has taken its last step."""
    config = point.config
    checkpoints = config.run.path / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "latest").write_text(folder_name(config.train.steps))
    row = {"step": config.train.steps, "tokens": 100, "loss": 2.0} | ({"held_out/loss": 2.5} if held_out else {})
    (config.run.path / "metrics.jsonl").write_text(json.dumps(row) + "\n")


def test_ended_runs_are_gathered_once_and_those_without_their_last_loss_go_on(tmp_path: Path) -> None:
    ladder = make_ladder(make_base(tmp_path), tmp_path / "ladder")
    points = ladder.sweep().points
    ended, stopped, *_ = points
    end_run(ended, held_out=True)
    end_run(stopped, held_out=False)
    for _ in range(2):
        known = gather_finished(points, ladder.records)
        assert list(known) == [ended.digest]
        assert known[ended.digest].loss == 2.5
        assert known == read_records(ladder.records)
        assert len(ladder.records.read_text().splitlines()) == 1
