"""The report on scores, from files as written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_scores import write_score_file

from launcher.scoring.report import make_report, report_lines

HASHES = np.arange(200, dtype=np.uint64)


def write(folder: Path, run: str, step: int, el2n: np.ndarray, loss: np.ndarray) -> Path:
    return write_score_file(folder, run, step, HASHES, el2n=el2n, loss=loss, accuracy=np.exp(-loss))


def test_a_score_that_ranks_as_the_loss_adds_nothing_and_high_losses_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    loss, noise = rng.uniform(1, 4, 200), rng.uniform(0, 1, 200)
    files = [
        write(tmp_path, "one", 10, loss**2, loss + 5),
        write(tmp_path, "one", 20, loss**2, loss),
        write(tmp_path, "two", 10, noise, loss),
    ]
    report = json.loads(json.dumps(make_report(files)))
    assert set(report["scores"]) == {"loss", "el2n"}  # one of the runs has no trajectory for lim
    assert report["scores"]["loss"]["spearman_between_runs"] == {"one, two": 1.0}
    between = report["scores"]["el2n"]["spearman_between_runs"]["one, two"]
    assert between == pytest.approx(0, abs=0.2)
    lines = report_lines(report)
    assert f"el2n: Spearman between runs {between:.3f}" in lines[1]
    assert any(line.startswith("one, step 10: the loss is 7.") for line in lines)
    alone = report_lines(make_report(files[:2]))
    assert "el2n: with the loss 1.000, it adds nothing to the loss" in alone[0]
    assert any(line.startswith("lim: with the loss") for line in alone)
    apart = report_lines(make_report([files[2]]))
    assert "adds nothing" not in "".join(apart)


def test_scores_that_do_not_vary_have_no_correlation(tmp_path: Path) -> None:
    files = [write(tmp_path, run, 10, np.ones(200), np.ones(200)) for run in ("one", "two")]
    report = make_report(files)
    assert report["scores"]["el2n"] == {"spearman_between_runs": {"one, two": None}, "spearman_with_loss": None}
    assert report_lines(report)[0] == "loss: Spearman between runs unknown"
