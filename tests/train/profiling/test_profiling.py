"""Profiled runs: traces of the chosen ranks and steps, the same losses, nothing half-written."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import lehr, start_lehr
from small_runs import make_shards, steps_taken, trajectory, wait_until, write_config

from launcher.run.config import RunConfig
from launcher.run.preflight import check_config
from settings import UserError, compose

SPANS = {"data", "forward", "backward", "reduction", "update", "evaluation", "save"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("corpus"))


def train(config: Path, *overrides: str) -> str:
    done = lehr("train", config, *overrides)
    assert done.returncode == 0, done.stderr
    return done.stderr


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Returns the spans of a trace: complete events (phase X) that user code annotated."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        trace = json.load(file)
    return [event for event in trace["traceEvents"] if event.get("ph") == "X" and event.get("cat") == "user_annotation"]


def spans_within(events: list[dict[str, Any]], step: dict[str, Any]) -> set[str]:
    begin, end = step["ts"], step["ts"] + step["dur"]
    return {event["name"] for event in events if begin <= event["ts"] and event["ts"] + event["dur"] <= end}


def files_of(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run / "profile")) for path in (run / "profile").rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel", [["parallel.data=2"], ["parallel.pipeline=2"], ["parallel.data=2", "parallel.zero=2"]]
)
def test_the_chosen_rank_has_a_trace_with_named_spans_and_the_losses_are_the_same(
    tmp_path: Path, shards: Path, parallel: list[str]
) -> None:
    config = write_config(tmp_path, shards)
    train(config, "run.name=plain", *parallel)
    train(config, *parallel, "train.profile={first_step: 3, steps: 2, ranks: [1]}")
    run = tmp_path / "runs" / "try"
    assert trajectory(run) == trajectory(tmp_path / "runs" / "plain")
    (name,) = files_of(run)
    assert name == "steps-00000003-00000004/rank-00001.pt.trace.json.gz"
    events = read_trace(run / "profile" / name)
    steps = {event["name"]: event for event in events if event["name"].startswith("ProfilerStep#")}
    assert list(steps) == ["ProfilerStep#3", "ProfilerStep#4"]
    # Step 4 is followed by an evaluation and a save.
    assert spans_within(events, steps["ProfilerStep#3"]) >= SPANS - {"evaluation", "save"}
    assert spans_within(events, steps["ProfilerStep#4"]) >= SPANS
    assert "evaluation" not in spans_within(events, steps["ProfilerStep#3"])
    inside = spans_within(events, steps["ProfilerStep#3"]) | spans_within(events, steps["ProfilerStep#4"])
    assert inside >= {event["name"] for event in events}
    forwards = [event for event in events if event["name"] == "forward"]
    backwards = [event for event in events if event["name"] == "backward"]
    assert len(backwards) == 2 * (4 if "parallel.pipeline=2" in parallel else 2)  # one a micro-batch
    assert len(forwards) > len(backwards)  # the evaluation has some too


@pytest.mark.slow
def test_a_resumed_run_profiles_the_steps_that_remain(tmp_path: Path, shards: Path) -> None:
    config = write_config(tmp_path, shards)
    train(config)
    run = tmp_path / "runs" / "try"
    expected = trajectory(run)
    shutil.rmtree(run / "checkpoints" / "step-00000012")  # the one before is of step 8
    warned = train(run / "config.yaml", "train.profile={first_step: 7, steps: 4}")  # may be added on a resume
    assert "nothing is profiled" not in warned
    (name,) = files_of(run)
    assert name == "steps-00000009-00000010/rank-00000.pt.trace.json.gz"
    names = [event["name"] for event in read_trace(run / "profile" / name)]
    assert [name for name in names if name.startswith("ProfilerStep#")] == ["ProfilerStep#9", "ProfilerStep#10"]
    assert trajectory(run) == expected


@pytest.mark.slow
def test_a_run_that_is_past_the_profiled_steps_says_so(tmp_path: Path, shards: Path) -> None:
    config = write_config(tmp_path, shards)
    train(config, "train.steps=4")
    warned = train(
        tmp_path / "runs" / "try" / "config.yaml", "train.steps=6", "train.profile={first_step: 2, steps: 2}"
    )
    assert "train.profile is of steps 2 to 3, and the run goes on after step 4: nothing is profiled" in warned
    assert not (tmp_path / "runs" / "try" / "profile").exists()


@pytest.mark.slow
def test_a_run_that_is_stopped_within_the_profiled_steps_leaves_nothing_half_written(
    tmp_path: Path, shards: Path
) -> None:
    config = write_config(tmp_path, shards)
    profile = "train.profile={first_step: 2, steps: 100000, ranks: [0, 1]}"
    process = start_lehr("train", config, "train.steps=200000", "parallel.data=2", profile)
    run = tmp_path / "runs" / "try"
    wait_until(lambda: steps_taken(run) >= 4 or process.poll() is not None)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "no trace is written" in errors
    assert not (run / "profile").exists()


@pytest.mark.slow
def test_a_disk_that_refuses_the_trace_does_not_end_the_run(tmp_path: Path, shards: Path) -> None:
    config = write_config(tmp_path, shards)
    run = tmp_path / "runs" / "try"
    run.mkdir(parents=True)
    (run / "profile").write_text("a file in the way")
    warned = train(config, "train.profile={first_step: 2, steps: 1}")
    assert "rank-00000 writes no trace" in warned
    assert len(trajectory(run)) == 12


def checked(config: Path, *overrides: str, world_size: int = 1) -> None:
    composed = compose(RunConfig, config, list(overrides))
    check_config(composed, world_size=world_size)


def test_mistakes_are_refused_before_the_start(tmp_path: Path, shards: Path) -> None:
    config = write_config(tmp_path, shards)
    checked(config, "train.profile={first_step: 10, steps: 3}")
    with pytest.raises(
        UserError, match=r"end at step 13, and the run at steps = 12; set profile.first_step to at most 10"
    ):
        checked(config, "train.profile={first_step: 11, steps: 3}")
    with pytest.raises(UserError, match=r"profile\.steps to at most 12"):
        checked(config, "train.profile={first_step: 1, steps: 13}")
    with pytest.raises(UserError, match="first_step"):
        checked(config, "train.profile={first_step: 0}")
    with pytest.raises(UserError, match="ranks"):
        checked(config, "train.profile={first_step: 1, ranks: []}")
    with pytest.raises(UserError, match="ranks"):
        checked(config, "train.profile={first_step: 1, ranks: [-1]}")
    ranks = "train.profile={first_step: 1, ranks: [0, 4]}"
    layout = ["parallel.tensor=2", "parallel.data=2"]
    with pytest.raises(UserError, match=r"there is no rank 4; tensor 2 x pipeline 1 x data 2 has 4 ranks") as caught:
        checked(config, ranks, *layout, world_size=4)
    assert "ranks below 4" in str(caught.value)
    checked(config, "train.profile={first_step: 1, ranks: [0, 3]}", *layout, world_size=4)


def test_a_memory_snapshot_needs_cuda(tmp_path: Path, shards: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    config = write_config(tmp_path, shards)
    with pytest.raises(UserError, match=r"train.profile.memory = true takes a snapshot of CUDA's memory.* no GPU"):
        checked(config, "train.profile={first_step: 1, memory: true}")
