"""The ledger of a start's time: sums at each checkpoint, which a kill cannot spoil."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import lehr
from small_runs import STEPS, make_shards, write_config

from train.metrics.jsonl import read_metrics
from train.metrics.time_ledger import TimeLedger, read_time_ledger


def test_a_killed_start_has_the_sums_of_its_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "time.jsonl"
    for began in (100.0, 200.0):
        ledger = TimeLedger(path, writes=True, began=began)
        ledger.start()
        for step in (1, 2, 3):
            ledger.step(0.5)
            if step < 3:
                ledger.saved(step)
    TimeLedger(path, writes=False, began=300.0).saved(9)
    path.write_text(path.read_text() + '{"step": 3, "beg')
    read = read_time_ledger(path)
    assert [(one.began, one.step, one.steps, one.saves, one.steps_taken) for one in read] == [
        (100.0, 2, 1.0, 2, 2),
        (200.0, 2, 1.0, 2, 2),
    ]
    assert len([json.loads(line) for line in path.read_text().splitlines()[:-1]]) == 4
    ledger.saved(3)  # the line that a kill cut off does not take the next one with it
    assert [one.step for one in read_time_ledger(path)] == [2, 3]


def test_a_run_writes_its_ledger_at_each_checkpoint(tmp_path: Path) -> None:
    config = write_config(tmp_path, make_shards(tmp_path))
    assert lehr("train", config).returncode == 0
    (start,) = read_time_ledger(tmp_path / "runs" / "try" / "time.jsonl")
    assert (start.step, start.steps_taken, start.saves) == (STEPS, STEPS, STEPS // 4)
    steps = read_metrics(tmp_path / "runs" / "try" / "metrics.jsonl")
    taken = [values["seconds_per_step"] for values in steps if "seconds_per_step" in values]
    assert start.steps == pytest.approx(sum(taken), abs=1e-6)
    assert 0 < start.starting < start.until - start.began
    spent = start.starting + start.steps + start.saving + start.evaluating
    assert spent == pytest.approx(start.until - start.began, abs=0.5)
