"""`lehr runs`: the family tree of a folder, and the line of a run, also where folders are gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.commands.runs import list_runs
from settings import UserError
from train.checkpoint.writer_lease import WriterLease
from train.run_folder.branch_record import Origin, add_branch
from train.run_folder.folder import RunFolder

ROOT = Path(__file__).resolve().parents[3]


def write_run(
    path: Path, *, steps: int, last: int, parent: Path | None = None, at: int = 0, mixture: dict[str, float]
) -> None:
    """Writes the files of a run that `lehr runs` reads; each step has 10 tokens."""
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.config.write_text(yaml.safe_dump({"train": {"steps": steps}, "data": {"mixture": mixture}}))
    rows: list[dict[str, Any]] = [
        {"step": step, "tokens": 10 * step, "loss": 5 - step / 10} for step in range(1, last + 1)
    ]
    rows.insert(2, {"step": 2, "held_out/loss": 4.25})
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    record: dict[str, Any] = {}
    if parent is not None:
        origin = Origin(run=str(parent), step=at, tokens=10 * at)
        add_branch(origin, path)
        record["branched_from"] = origin.to_plain()
    folder.record.write_text(json.dumps(record))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    write_run(runs / "base", steps=8, last=8, mixture={"en": 1})
    write_run(runs / "annealed", steps=6, last=6, parent=runs / "base", at=4, mixture={"en": 1})
    write_run(runs / "new", steps=20, last=12, parent=runs / "base", at=8, mixture={"en": 1, "fr": 3})
    write_run(runs / "newer", steps=30, last=12, parent=runs / "new", at=12, mixture={"fr": 1})
    write_run(runs / "lost", steps=30, last=12, parent=runs / "base", at=8, mixture={})
    shutil.rmtree(runs / "lost")
    (runs / "no run").mkdir()
    return runs


def test_the_tree_has_each_run_under_its_parent(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_runs(runs)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["run", "steps", "state", "loss", "held-out", "loss", "from"],
        ["base", "8/8", "done", "4.2000", "4.2500"],
        ["├─", "lost", "gone"],
        ["├─", "annealed", "6/6", "done", "4.4000", "4.2500", "base@4"],
        ["└─", "new", "12/20", "stopped", "3.8000", "4.2500", "base@8"],
        ["└─", "newer", "12/30", "stopped", "3.8000", "4.2500", "new@12"],
    ]


def test_a_moved_folder_keeps_its_tree_and_a_run_in_training_says_so(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = runs.with_name("moved")
    os.rename(runs, moved)
    lease = WriterLease.take(RunFolder(moved / "new").checkpoints)
    list_runs(moved)
    lines = capsys.readouterr().out.splitlines()
    assert sum("└─ " in line or "├─ " in line for line in lines) == 4
    assert "in training" in next(line for line in lines if " new " in line)
    lease.release()


def test_a_branch_in_another_folder_is_under_its_parent_and_a_run_that_has_the_name_of_a_parent_is_none(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = runs.with_name("other")
    write_run(other / "base", steps=5, last=2, mixture={"en": 1})
    write_run(other / "far", steps=9, last=9, parent=runs / "base", at=4, mixture={"en": 1})
    list_runs(runs)
    assert ["├─", "far", "9/9", "done"] in [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
    list_runs(other)
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["run", "base", "far"]


def test_the_line_of_a_run_has_the_steps_tokens_and_data_of_each_ancestor(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list_runs(runs / "newer")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        [str(runs / "base"), "1", "to", "8", "80", "done", "en", "100%"],
        [str(runs / "new"), "9", "to", "12", "40", "stopped", "en", "25%,", "fr", "75%"],
        [str(runs / "newer"), "none", "yet", "0", "stopped", "fr", "100%"],
    ]
    list_runs(runs / "base")
    branches = [line for line in capsys.readouterr().out.splitlines() if line.startswith("branch: ")]
    assert branches[0] == f"branch: {runs / 'annealed'}"
    assert branches[2] == f"branch: {runs / 'lost'} (its folder is gone)"
    shutil.rmtree(runs / "base")
    list_runs(runs / "new")
    first = capsys.readouterr().out.splitlines()[1]
    assert " ".join(first.split()) == f"{runs / 'base'} 1 to 8 80 gone not known: its folder is gone"


def test_the_data_of_a_run_of_an_earlier_version_has_its_stages(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"mixture": {"en": 1}, "stages": [{"from_step": 5, "mixture": {"fr": 1}}]}
    (runs / "base/config.yaml").write_text(yaml.safe_dump({"train": {"steps": 8}, "data": data}))
    list_runs(runs / "base")
    assert capsys.readouterr().out.splitlines()[1].endswith("from step 1: en 100%; from step 6: fr 100%")


def test_it_begins_quickly_because_it_imports_no_torch(runs: Path) -> None:
    code = "import sys; from pathlib import Path; from launcher.commands.runs import list_runs\n"
    code += f"list_runs(Path({str(runs)!r})); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        list_runs(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        list_runs(tmp_path / "nowhere")
