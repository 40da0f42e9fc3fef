"""The records of runs: what is read off a run folder, and a file of lines that survives a cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import STEPS, make_shards, write_config

from launcher.sweep.grid import parse_axes
from launcher.sweep.points import Point, plan_sweep
from launcher.sweep.records import add_record, has_diverged, read_records, record_of
from launcher.sweep.runner import describe
from settings import UserError
from train.run_folder.folder import RunFolder


@pytest.fixture
def point(tmp_path: Path) -> Point:
    config = write_config(tmp_path, make_shards(tmp_path))
    return plan_sweep(config, ["train.steps=20", "train.max_skipped_steps=2"], parse_axes([]), seeds=1).points[0]


def write_metrics(
    point: Point, *, steps: int = 20, held_out: dict[int, float] | None = None, skipped: tuple[int, ...] = ()
) -> None:
    """Writes the metrics of a run: the loss of step n is 10 - n / 10."""
    path = RunFolder(point.config.run.path).metrics
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        lines.append({"step": step, "tokens": 256 * step, "loss": 10 - step / 10, "seconds_per_step": 0.5})
        lines[-1]["skipped_steps"] = sum(one <= step for one in skipped)
        if held_out and step in held_out:
            lines.append({"step": step, "held_out/loss": held_out[step], "held_out/alpha/loss": 2 * held_out[step]})
            lines[-1]["held_out/alpha/bits_per_byte"] = held_out[step] / 2
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_loss_is_the_held_out_loss_after_the_last_step(point: Point) -> None:
    write_metrics(point, held_out={10: 4.5, 20: 4.25})
    record = record_of(point)
    assert (record.loss, record.loss_is, record.diverged) == (4.25, "held_out", False)
    assert record.sources == {"alpha": 8.5}
    assert record.bits_per_byte == {"alpha": 2.125}
    assert record.curve == [(2560, 4.5), (5120, 4.25)]
    assert (record.steps, record.tokens, record.seconds) == (20, 5120, 10.0)


def test_without_held_out_text_it_is_the_mean_training_loss_of_the_last_tenth(point: Point) -> None:
    write_metrics(point)
    record = record_of(point)
    assert record.loss == pytest.approx((8.0 + 8.1) / 2)
    assert (record.loss_is, record.curve) == ("training", [])


def test_a_run_without_a_last_loss_has_diverged(point: Point) -> None:
    write_metrics(point, steps=STEPS, held_out={10: 4.5})
    assert record_of(point).diverged
    assert record_of(point).loss is None
    assert not has_diverged(point)
    events = RunFolder(point.config.run.path).events
    events.write_text("".join(json.dumps({"event": "skipped", "step": 1, "in_a_row": n}) + "\n" for n in (1, 2)))
    assert not has_diverged(point)
    with events.open("a") as file:
        file.write(json.dumps({"event": "skipped", "step": 3, "in_a_row": 3}) + "\n")
    assert has_diverged(point)


@pytest.mark.parametrize(("skipped", "diverged"), [((3, 4, 5), False), ((20,), True), ((3, 19, 20), True)])
def test_a_run_whose_last_step_was_skipped_has_diverged(skipped: tuple[int, ...], diverged: bool, point: Point) -> None:
    write_metrics(point, held_out={20: 5.5452}, skipped=skipped)
    record = record_of(point)
    assert (record.diverged, record.loss) == (diverged, None if diverged else 5.5452)
    assert record.skipped_steps == len(skipped)
    assert describe(record).endswith(f", {len(skipped)} step{'s' if len(skipped) > 1 else ''} skipped")


def test_a_folder_without_metrics_is_no_run(point: Point) -> None:
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be read"):
        record_of(point)


def test_records_read_back_equal_and_a_line_that_was_cut_off_is_replaced(point: Point, tmp_path: Path) -> None:
    path = tmp_path / "new/runs.jsonl"
    assert read_records(path) == {}
    write_metrics(point, held_out={20: 4.25})
    first = record_of(point)
    second = first.model_copy(update={"config": "other"})
    add_record(path, first)
    with path.open("a") as file:
        file.write('{"format": 1, "con')
    assert read_records(path) == {first.config: first}
    add_record(path, second)
    assert read_records(path) == {one.config: one for one in (first, second)}
    path.write_text("{\n" + path.read_text())
    with pytest.raises(UserError, match=r"runs.jsonl, line 1: is no JSON"):
        read_records(path)
