"""`lehr train CONFIG --from RUN@STEP`: a run that begins from a checkpoint of another one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import lehr
from small_runs import make_shards, trajectory, write_config

from launcher.commands.arguments import branch_overrides
from launcher.run.branching import check_branch
from launcher.run.config import RunConfig
from launcher.run.schedule_phases import phases_on_record, schedule_with, with_phases
from schedules.base import SCHEDULES
from settings import UserError, compose
from train.checkpoint.discovery import step_folders
from train.checkpoint.manifest import read_manifest
from train.metrics.jsonl import read_metrics

INFINITE = {"name": "infinite", "warmup_steps": 2, "min_lr": 3e-4}  # constant from step 2 to 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of config.yaml, of the shards, and of a run with checkpoints of steps 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("parent")
    write_config(folder, make_shards(folder))
    path = folder / "config.yaml"
    path.write_text(
        json.dumps(
            {
                **json.loads(path.read_text()),
                "schedule": INFINITE,
                "data": {"shards": str(folder / "shards"), "mixture": {"alpha": 1}},
            }
        )
    )
    done = lehr("train", path, "run.name=parent")
    assert done.returncode == 0, done.stderr
    return folder


def branch(folder: Path, at: str, *words: str) -> tuple[Path, str]:
    """Trains a branch of the run, and returns its folder and what it printed."""
    done = lehr("train", folder / "config.yaml", "--from", f"{folder}/runs/{at}", *words)
    assert done.returncode == 0, done.stderr
    name = next(word for word in words if word.startswith("run.name=")).removeprefix("run.name=")
    return folder / "runs" / name, done.stdout + done.stderr


def without_forgetting(run: Path) -> list[dict[str, Any]]:
    """Returns the results of each step but for forgetting, which a run without a parent does not have."""
    return [{key: value for key, value in row.items() if not key.startswith("forgetting/")} for row in trajectory(run)]


def steps_of(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in step_folders(run / "checkpoints")]


def test_a_branch_of_the_same_config_is_its_parent_to_the_bit_and_needs_it_no_more(folder: Path) -> None:
    shutil.copytree(folder / "runs/parent", folder / "runs/passing")
    run, printed = branch(folder, "passing@4", "run.name=same", "train.steps=8", "schedule.constant_end_step=8")
    assert f"Branches from {folder}/runs/passing at step 4, with the optimizer's state as it was." in printed
    assert "Goes on from step 4" in printed
    assert "not continuous" not in printed
    parent = trajectory(folder / "runs/parent")
    assert without_forgetting(run) == parent[:8]
    assert steps_of(run) == [4, 8]
    origin = json.loads((run / "run.json").read_text())["branched_from"]
    assert (origin["run"], origin["step"], origin["optimizer"]) == (f"{folder}/runs/passing", 4, "keep")
    (line,) = (json.loads(line) for line in (folder / "runs/passing/branches.jsonl").read_text().splitlines())
    assert (line["run"], line["step"]) == (str(run), 4)
    shutil.rmtree(folder / "runs/passing")
    shutil.rmtree(run / "checkpoints/step-00000008")
    (run / "checkpoints/latest").write_text("step-00000004\n")
    again, printed = branch(folder, "passing@4", "run.name=same", "train.steps=8", "schedule.constant_end_step=8")
    assert "Branches from" not in printed
    assert without_forgetting(again) == parent[:8]


@pytest.mark.slow
def test_a_branch_anneals_from_the_constant_phase_with_a_fresh_optimizer_in_another_layout(folder: Path) -> None:
    words = ("schedule.constant_end_step=8", "train.steps=10", "branch.optimizer=reset", "parallel.data=2")
    run, printed = branch(folder, "parent@8", "run.name=annealed", *words)
    assert "with the optimizer's state reset" in printed
    assert "not continuous" not in printed
    rows = read_metrics(run / "metrics.jsonl")
    schedule = SCHEDULES.parse({**INFINITE, "cooldown_end_step": 2, "constant_end_step": 8})
    assert [row["lr"] for row in rows] == schedule.build(peak_lr=3e-3, total_steps=10).every_step().tolist()
    first = read_manifest(run / "checkpoints/step-00000008")
    assert all(name.startswith("model.") for name in first.tensors)
    parent = trajectory(folder / "runs/parent")
    assert rows[8]["batch_hash"] == parent[8]["batch_hash"]
    assert rows[8]["loss"] == pytest.approx(parent[8]["loss"], rel=1e-5)  # the same weights, batch and forward pass
    assert rows[9]["loss"] != pytest.approx(parent[9]["loss"], rel=1e-5)
    state = json.loads((run / "checkpoints/step-00000010/state.json").read_text())
    assert (state["step"], state["optimizer_steps"]) == (10, 2)


@pytest.mark.slow
def test_new_data_from_the_constant_phase_has_forgetting_and_adaptation(folder: Path) -> None:
    new = "{name: new, steps: 4, mixture: {beta: 1}, replay: {share: 0.25}}"
    stages = f"stages=[{{name: past, steps: 8}}, {new}]"
    words = ("run.name=new", stages, "schedule.constant_end_step=12", "evaluate.every_steps=2")
    run, printed = branch(folder, "parent@8", *words)
    parent = trajectory(folder / "runs/parent")
    rows = trajectory(run)
    assert [row["loss"] for row in rows[:8]] == [row["loss"] for row in parent[:8]]
    assert {row["lr"] for row in rows[2:]} == {1.5e-3}  # no new warm-up
    alpha = {row["step"]: row["held_out/alpha/loss"] for row in rows if "held_out/alpha/loss" in row}
    beta = {row["step"]: row["held_out/beta/loss"] for row in rows if "held_out/beta/loss" in row}
    assert list(alpha) == [4, 8, 10, 12]
    assert list(beta) == [8, 10, 12]  # the new source is measured where the branch begins
    for step, row in ((10, rows[9]), (12, rows[11])):
        assert row["forgetting/alpha"] == alpha[step] - min(loss for at, loss in alpha.items() if at <= step)
        assert row["adaptation/beta"] == beta[8] - beta[step]
        assert "forgetting/beta" not in row
    last = rows[11]
    assert f"forgetting alpha {last['forgetting/alpha']:.4f}  adaptation beta {last['adaptation/beta']:.4f}" in printed
    (run / "checkpoints/latest").write_text("step-00000008\n")
    shutil.rmtree(run / "checkpoints/step-00000012")
    branch(folder, "parent@8", *words)
    assert trajectory(run) == rows
    plot = lehr("plot", run)
    assert plot.returncode == 0, plot.stderr
    assert (run / "curves.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_start_that_was_killed_before_the_branch_had_a_checkpoint_is_repeated_from_the_same_step(
    folder: Path,
) -> None:
    """`latest` names the checkpoint of the first start, however far its parent has come."""
    shutil.copytree(folder / "runs/parent", folder / "runs/moving")
    (folder / "runs/moving/branches.jsonl").unlink(missing_ok=True)
    for step in (8, 12):
        shutil.rmtree(folder / f"runs/moving/checkpoints/step-{step:08d}")
    (folder / "runs/moving/checkpoints/latest").write_text("step-00000004\n")
    words = ("run.name=killed", "train.steps=6", "schedule.constant_end_step=6", "evaluate.every_steps=0")
    run, _ = branch(folder, "moving", *words)
    before = trajectory(run)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(folder / "runs/parent/checkpoints/step-00000008", folder / "runs/moving/checkpoints/step-00000008")
    (folder / "runs/moving/checkpoints/latest").write_text("step-00000008\n")
    again, printed = branch(folder, "moving@latest", *words)
    assert "Branches from" in printed
    assert trajectory(again) == before
    assert len((folder / "runs/moving/branches.jsonl").read_text().splitlines()) == 1


def refused(folder: Path, words: Sequence[str], from_run: str) -> str:
    overrides = [*words, *branch_overrides(from_run)]
    config = compose(RunConfig, folder / "config.yaml", overrides)
    with pytest.raises(UserError) as caught:
        checked(config)
    return str(caught.value)


def checked(config: RunConfig) -> list[str]:
    phases = phases_on_record(config)
    return check_branch(with_phases(config, phases), lambda each: schedule_with(phases, each))


def test_what_cannot_branch_is_refused_before_a_process_starts(folder: Path) -> None:
    parent, new = folder / "runs/parent", "run.name=unborn"
    assert refused(folder, [new], f"{parent}@5").endswith("has no checkpoint of step 5; it has those of steps 4, 8, 12")
    assert "nowhere is no run folder" in refused(folder, [new], f"{folder}/nowhere@4")
    for text in (f"{parent}@x", f"{parent}@", "@-4", "@"):
        advice = "write FOLDER@STEP, where STEP must be a whole number or `latest`"
        assert refused(folder, [new], text).startswith(f"--from {text} is no run folder: it has no config.yaml; ")
        assert refused(folder, [new], text).endswith(advice)
    assert "set run.name=NEW" in refused(folder, ["run.name=parent"], f"{parent}@4")
    wider = refused(folder, [new, "model.ffn_size=96"], f"{parent}@4")
    assert "model.ffn_size: 48 there, 96 here" in wider
    assert "train.steps = 8 counts from the beginning" in refused(
        folder, [new, "train.steps=8", "schedule.constant_end_step=8"], str(parent)
    )
    other = refused(folder, [new, "data.mixture={beta: 1}"], f"{parent}@8")
    assert "has drawn from step 1 on alpha 100%; this config says from step 1 on beta 100%" in other
    assert other.splitlines()[-2:] == [
        "- {name: past0, steps: 8, mixture: {alpha: 1}}",
        "- {name: new, steps: 4, mixture: {beta: 1}}",
    ]
    assert "set branch.optimizer=reset" in refused(folder, [new, "optim.name=muon"], f"{parent}@4")
    shutil.copytree(parent, folder / "runs/other")
    assert "did not branch from" in refused(folder, ["run.name=other"], f"{parent}@4")
    shutil.copytree(parent, folder / "runs/torn")
    file = next((folder / "runs/torn/checkpoints/step-00000008").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    assert "step-00000008 is not complete" in refused(folder, [new], f"{folder}/runs/torn@8")
    shutil.copytree(folder / "shards", folder / "retokenized")
    for path in (folder / "retokenized").glob("*/dataset.json"):
        plain: dict[str, Any] = json.loads(path.read_text())
        plain["tokenizer"]["sha256"] = "0" * 64
        path.write_text(json.dumps(plain))
    other = refused(folder, [new, f"data.shards={folder}/retokenized"], f"{parent}@4")
    assert "tokenizer: SHA-256" in other
    assert "0000000000000000… here" in other


def test_what_is_not_continuous_is_a_warning(folder: Path) -> None:
    def warnings(*words: str) -> list[str]:
        overrides = ["run.name=unborn", *words, *branch_overrides(f"{folder}/runs/parent@8")]
        return checked(compose(RunConfig, folder / "config.yaml", overrides))

    assert warnings("train.steps=40") == []
    (lr,) = warnings("schedule.name=cosine", "train.steps=40")
    assert lr.startswith("lr is not continuous where the branch begins: step 8 had 0.0015 in")
    (rows,) = warnings("train.global_batch_size=16", "run.seed=2")
    assert rows.startswith("run.seed = 2 (1 there), train.global_batch_size = 16 (8 there): the branch reads")


def test_a_branch_with_other_rows_does_not_replay_what_it_cannot_know(folder: Path) -> None:
    """Its parent is known by its own record."""

    def words(replay: str) -> list[str]:
        new = f"{{name: new, steps: 4, mixture: {{beta: 1}}, replay: {replay}}}"
        return ["run.name=unborn", "run.seed=2", f"stages=[{{name: past, steps: 8}}, {new}]"]

    parent = f"{folder}/runs/parent@8"
    message = refused(folder, words("{share: 0.5}"), parent)
    assert f"stages.1.replay.run={parent}" in message
    for replay in ("{share: 0.5, draw: all}", f"{{share: 0.5, run: {parent}}}"):
        (warning,) = checked(compose(RunConfig, folder / "config.yaml", [*words(replay), *branch_overrides(parent)]))
        assert warning.startswith("run.seed = 2 (1 there): the branch reads")


@pytest.mark.parametrize(
    ("text", "run", "step"),
    [
        ("a/b@7", "a/b", "7"),
        ("a@latest", "a", "null"),
        ("a/b", "a/b", "null"),
        ("a@b", "a@b", "null"),
        ("@-4", "@-4", "null"),
    ],
)
def test_from_names_a_run_and_a_step(text: str, run: str, step: str) -> None:
    assert branch_overrides(text) == [f'branch.run="{run}"', f"branch.step={step}"]
