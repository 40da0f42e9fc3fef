"""Curves from run folders and CSV files, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from public_curves import FITTED, HELD_OUT, public_curve

from laws.curve import planned_lr_curve
from laws.reading.curves import read_curve
from laws.scaling.critical_batch import read_batch_run
from schedules.base import SCHEDULES
from settings import UserError

SCHEDULE = {"name": "wsd", "warmup_steps": 20, "decay_steps": 40, "min_lr": 1e-5}


def write_run(
    folder: Path, *, steps: int = 200, every: int = 10, config: dict[str, object] | None = None
) -> list[dict]:
    """A run as `lehr train` leaves it."""
    folder.mkdir()
    lr = planned_lr_curve(SCHEDULES.parse(SCHEDULE), peak_lr=1e-3, total_steps=steps).lr
    rows: list[dict] = []
    for step in range(1, steps + 1):
        rows.append({"step": step, "tokens": 1000 * step, "lr": lr[step - 1], "loss": 5.0, "skipped_steps": 0})
        if step % every == 0:
            rows.append({"step": step, "held_out/web/loss": 4.0, "held_out/loss": 3 + 10 / step})
    save(folder, rows)
    (folder / "config.yaml").write_text(yaml.safe_dump({"schedule": SCHEDULE, **(config or {})}))
    return rows


def save(folder: Path, rows: list[dict]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_run_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    curve = read_curve(tmp_path / "run").curve
    expected = planned_lr_curve(SCHEDULES.parse(SCHEDULE), peak_lr=1e-3, total_steps=200)
    assert np.array_equal(curve.schedule.lr, expected.lr)
    assert curve.schedule.warmup_steps == 20
    assert curve.steps.tolist() == list(range(10, 201, 10))
    np.testing.assert_allclose(curve.loss, 3 + 10 / curve.steps)
    assert curve.name == "run"


def test_a_run_that_is_being_written_or_lacks_a_config(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "run" / "config.yaml").unlink()
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 201, "lr": 1e')
    curve = read_curve(tmp_path / "run").curve
    assert curve.schedule.warmup_steps == 20  # found in the lr itself
    assert curve.schedule.steps == 200


def test_skipped_steps_did_not_happen(tmp_path: Path) -> None:
    rows = write_run(tmp_path / "run")
    for row in rows:
        if "lr" in row:
            row["skipped_steps"] = int(row["step"] >= 100)
    save(tmp_path / "run", rows)
    reading = read_curve(tmp_path / "run")
    expected = np.delete(planned_lr_curve(SCHEDULES.parse(SCHEDULE), peak_lr=1e-3, total_steps=200).lr, 99)
    assert np.array_equal(reading.curve.schedule.lr, expected)
    assert reading.curve.steps.tolist() == [*range(10, 91, 10), *range(99, 200, 10)]
    assert reading.notes == ("run: 1 skipped steps are left out",)


def test_a_batch_that_changes_half_way_is_refused(tmp_path: Path) -> None:
    rows = write_run(tmp_path / "run")
    for row in rows:
        if "tokens" in row:
            row["tokens"] += 1000 * max(0, row["step"] - 120)
    save(tmp_path / "run", rows)
    with pytest.raises(UserError, match=r"batch size changes near step 1[0-9]1, from 1000 to 2000 tokens a step"):
        read_curve(tmp_path / "run")
    assert read_curve(tmp_path / "run", last_step=110).curve.steps[-1] == 110


def test_a_run_in_which_no_token_counts_is_read(tmp_path: Path) -> None:
    rows = write_run(tmp_path / "run")
    for row in rows:
        if "tokens" in row:
            row["tokens"] = 0
    save(tmp_path / "run", rows)
    assert read_curve(tmp_path / "run").curve.steps.size == 20


def test_masks_that_vary_are_no_change_of_batch(tmp_path: Path) -> None:
    rows = write_run(tmp_path / "run")
    tokens = np.cumsum(np.random.default_rng(0).integers(900, 1000, size=201))
    for row in rows:
        if "tokens" in row:
            row["tokens"] = int(tokens[row["step"]])
    save(tmp_path / "run", rows)
    assert read_curve(tmp_path / "run").curve.steps.size == 20
    assert read_batch_run(tmp_path / "run").batch_tokens == pytest.approx(950, rel=0.02)


def test_a_mix_that_changes_half_way_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", config={"data": {"stages": [{"from_step": 150, "mixture": {"code": 1.0}}]}})
    with pytest.raises(UserError, match=r"data mix changes at step 150 .*--last-step 150"):
        read_curve(tmp_path / "run")
    assert read_curve(tmp_path / "run", last_step=150).curve.steps[-1] == 150


def test_a_run_without_held_out_losses(tmp_path: Path) -> None:
    write_run(tmp_path / "run", every=1000)
    with pytest.raises(UserError, match=r"no held_out/loss; set evaluate\.every_steps.*name another loss \(loss\)"):
        read_curve(tmp_path / "run")
    assert read_curve(tmp_path / "run", loss="loss").curve.steps.size == 200


def test_what_is_no_curve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run folder nor a CSV"):
        read_curve(tmp_path / "none")
    with pytest.raises(UserError, match=r"is no run folder: it holds no metrics\.jsonl"):
        read_curve(tmp_path)
    path = tmp_path / "curve.csv"
    for text, message in (
        ("", "holds no rows"),
        ("step,loss\n1,2\n", "no column lr"),
        ("step,lr,loss\n1,1e-3,x\n", "column loss must hold numbers"),
        ("step,lr,loss\n2,1e-3,3\n1,1e-3,3\n", "steps must ascend, but 1 follows 2"),
        ("step,lr,loss\n1,1e-3,3\n2,1e-3,nan\n", "positive and finite"),
        ("step,lr,loss\n1,-1,3\n2,-1,3\n", "finite and at least 0"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_curve(path)


def test_a_csv_with_every_step(tmp_path: Path) -> None:
    lr = planned_lr_curve(SCHEDULES.parse(SCHEDULE), peak_lr=1e-3, total_steps=200).lr
    rows = [f"{step},{float(lr[step])!r},{3 + 1 / (step + 1)}" for step in range(200)]
    (tmp_path / "a.csv").write_text("step,lr,loss\n" + "\n".join(rows) + "\n")
    reading = read_curve(tmp_path / "a.csv")
    np.testing.assert_allclose(reading.curve.schedule.lr, lr[:199], atol=2e-5)
    assert abs(reading.curve.schedule.warmup_steps - 20) <= 1
    assert not reading.notes


@pytest.mark.parametrize("name", [*FITTED, *HELD_OUT])
def test_sparse_rows_give_nearly_the_schedule_they_come_from(loss_curves: Path, name: str) -> None:
    truth = public_curve(loss_curves, "25M", name)
    reading = read_curve(loss_curves / "25M" / f"{name}.csv")
    got = reading.curve.schedule.lr
    assert len(reading.notes) == 1
    assert "2160 steps before the first row" in reading.notes[0] or "2176 steps" in reading.notes[0]
    off = np.abs(got - truth.schedule.lr[: got.size])
    assert off.sum() < 2e-3 * truth.schedule.lr.sum()
    assert np.quantile(off[2200:], 0.95) < 1e-6
    if name.startswith("wsdcon"):
        assert np.all(off[2200:] < 1e-9)  # the jump is where it was
    reading = read_curve(loss_curves / "25M" / f"{name}.csv", warmup_steps=2160)
    assert reading.curve.schedule.warmup_steps == 2160
    assert not reading.notes
