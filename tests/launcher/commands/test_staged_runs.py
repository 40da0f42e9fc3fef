"""A run in stages with replay is the same run when it is continued in mid-phase, in whatever layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import lehr
from small_runs import STEPS, make_shards, trajectory, write_config

from launcher.run.config import load_run_config
from launcher.run.stages import draw_plan, run_schedule
from train.metrics.jsonl import read_metrics

STAGES: list[dict[str, Any]] = [
    {"name": "old", "steps": 5, "mixture": {"alpha": 1}},
    {
        "name": "new",
        "tokens": 7 * 8 * 32,
        "mixture": {"beta": 1},
        "replay": {"share": 0.25},
        "schedule": {"name": "cosine", "warmup_steps": 5, "min_lr": 1e-4},
    },
]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the config and a complete run. Its checkpoint of step 8 lies within the second warm-up."""
    folder = tmp_path_factory.mktemp("complete")
    path = write_config(folder, make_shards(folder))
    plain = json.loads(path.read_text())
    del plain["train"]["steps"]
    path.write_text(json.dumps({**plain, "stages": STAGES}))
    done = lehr("train", path, "run.name=complete")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_lr_and_the_shares_are_those_of_the_config(complete: Path) -> None:
    config = load_run_config(complete / "config.yaml")
    lines = trajectory(complete / "runs" / "complete")
    assert [line["lr"] for line in lines if "lr" in line] == run_schedule(config).every_step().tolist()
    assert lines[-1]["step"] == STEPS
    assert lines[-1]["lr"] == 1e-4
    record = json.loads((complete / "runs" / "complete" / "run.json").read_text())
    assert record["draws"] == draw_plan(config).to_plain()
    assert record["draws"]["pools"][0]["seen"]["draws"] == [[0, 40]]


@pytest.mark.slow
@pytest.mark.parametrize("layout", [[], ["parallel.data=2", "parallel.zero=1"], ["parallel.tensor=2"]])
def test_a_run_goes_on_in_mid_phase_as_the_unbroken_run(complete: Path, layout: list[str]) -> None:
    """Its lr and batches are equal to the bit in every layout, its losses in the same one."""
    run = complete / "runs" / f"resumed-{len(layout)}-{'-'.join(layout)}".replace("=", "-").replace(".", "-")
    shutil.copytree(complete / "runs" / "complete", run)
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    (run / "checkpoints" / "latest").write_text("step-00000008\n")
    done = lehr("train", run / "config.yaml", *layout)
    assert done.returncode == 0, done.stderr
    resumed, unbroken = trajectory(run), trajectory(complete / "runs" / "complete")
    for key in ("step", "lr", "batch_hash", "tokens"):
        assert [line.get(key) for line in resumed] == [line.get(key) for line in unbroken]
    losses, wanted = ([line["loss"] for line in lines] for lines in (resumed, unbroken))
    assert losses == pytest.approx(wanted, rel=1e-5 if layout else 0, abs=0)


@pytest.mark.slow
def test_a_branch_replays_what_its_parent_has_read(complete: Path) -> None:
    """The stages before the branch are the parent's past. Where they are not, there is no telling what to replay."""

    def branch(old: str) -> tuple[int, str]:
        stages = [
            {"name": "old", "steps": 4, "mixture": {old: 1}},
            {"name": "branch", "steps": 4, "mixture": {"beta": 1}, "replay": {"share": 0.5}},
        ]
        words = ["--from", f"{complete / 'runs' / 'complete'}@4", "run.name=branch", f"stages={json.dumps(stages)}"]
        done = lehr("train", complete / "config.yaml", *words)
        return done.returncode, done.stderr

    code, message = branch("beta")
    assert code == 2
    assert "up to step 4, where the branch begins," in message
    assert branch("alpha")[0] == 0
    record = json.loads((complete / "runs" / "branch" / "run.json").read_text())
    assert record["draws"]["pools"][0]["seen"]["draws"] == [[0, 32]]
    assert record["draws"]["stages"][1] == {"first_step": 4, "weights": [0, 1, 1]}


@pytest.mark.slow
def test_a_run_replays_another_run(complete: Path) -> None:
    """Of its 12 steps of 8 rows, a quarter are rows that the other run had read up to its checkpoint of step 4."""
    earlier = complete / "runs" / "earlier"
    shutil.copytree(complete / "runs" / "complete", earlier)
    replay = {"share": 0.25, "run": f"{earlier}@4"}
    stages = [{"name": "on", "steps": STEPS, "mixture": {"beta": 1}, "replay": replay}]
    done = lehr("train", complete / "config.yaml", "run.name=after", f"stages={json.dumps(stages)}")
    assert done.returncode == 0, done.stderr
    after = complete / "runs" / "after"
    record = json.loads((after / "run.json").read_text())
    (seen,) = record["replayed"].values()
    assert seen["sources"]["alpha"]["draws"] == [[0, 32]]
    assert record["draws"]["stages"] == [{"first_step": 0, "weights": [0, 3, 1]}]
    assert len(read_metrics(after / "metrics.jsonl")) == STEPS
    shutil.rmtree(earlier)
    again = lehr("train", after / "config.yaml")
    assert again.returncode == 0, again.stderr
