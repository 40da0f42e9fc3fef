"""The points of a sweep: folders with clear names, and a hash of exactly what decides the losses."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from small_runs import make_shards, write_config

from launcher.run.config import load_run_config
from launcher.run.config_digest import config_digest
from launcher.sweep.grid import parse_axes
from launcher.sweep.points import plan_sweep
from settings import UserError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, make_shards(tmp_path))


def test_every_combination_has_a_folder_for_each_seed(config: Path) -> None:
    axes = parse_axes(["optim.lr=1e-3,0.002", "schedule={name: constant, warmup_steps: 1},cosine"])
    sweep = plan_sweep(config, ["run.seed=5"], axes, seeds=2)
    assert sweep.folder == config.parent / "runs/try-sweep"
    assert [point.seed for point in sweep.points] == [5, 6] * 4
    assert [point.config.optim.lr for point in sweep.points] == [1e-3] * 4 + [2e-3] * 4
    names = [point.name.rpartition("_")[0] for point in sweep.points]
    assert names[:4] == [
        "lr-1e-3_schedule-name-constant-warmup_steps-1_seed-5",
        "lr-1e-3_schedule-name-constant-warmup_steps-1_seed-6",
        "lr-1e-3_schedule-cosine_seed-5",
        "lr-1e-3_schedule-cosine_seed-6",
    ]
    assert all(point.config.run.path.parent == sweep.folder for point in sweep.points)
    assert all(re.fullmatch(r"[0-9a-f]{8}", point.name.rpartition("_")[2]) for point in sweep.points)


def test_a_mistake_of_any_point_is_found_before_a_start(config: Path) -> None:
    with pytest.raises(UserError, match=r"train.steps = 0"):
        plan_sweep(config, [], parse_axes(["train.steps=4,0"]), seeds=1)
    with pytest.raises(
        UserError, match=r"the points optim.lr=1e-3, seed 1 and optim.lr=0.001, seed 1 are the same run"
    ):
        plan_sweep(config, [], parse_axes(["optim.lr=1e-3,0.001"]), seeds=1)
    with pytest.raises(UserError, match=r"optim.lr=2e-3 and --grid optim.lr=... set the same key"):
        plan_sweep(config, ["optim.lr=2e-3"], parse_axes(["optim.lr=1e-3"]), seeds=1)  # `--grid A B` for `--grid A,B`


def test_the_hash_changes_with_what_decides_the_losses_and_with_nothing_else(config: Path, tmp_path: Path) -> None:
    def digest(*overrides: str) -> str:
        return config_digest(load_run_config(config, overrides))

    shutil.copytree(tmp_path / "shards", tmp_path / "moved")
    same = ["run.name=other", "run.folder=/elsewhere", f"data.shards={tmp_path / 'moved'}", "data.workers=7"]
    same += ["checkpoint.every_steps=1", "optim.beta1=0.9", "model.norm.name=rmsnorm", "data.verify_hashes=false"]
    assert {digest(override) for override in same} == {digest()}
    other = ["run.seed=2", "optim.lr=1e-4", "optim.beta2=0.5", "train.steps=24", "evaluate.max_windows=4"]
    other += ["model.num_layers=4", "data.document_masking=false", "data.mixture={alpha: 1}", "schedule=constant"]
    assert len({digest(override) for override in ("run.name=x", *other)}) == 1 + len(other)
