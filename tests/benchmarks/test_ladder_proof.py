"""The proof of ladders: its plan keeps what was asked, and a sweep is widened where its best lr is at the edge."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from ladder_plan import (
    BUDGET,
    LADDER_SEEDS,
    LEAST_RATIO,
    MOST_FLOPS,
    SIZES,
    SMALL,
    SPACING,
    TARGET_PARAMETERS,
    TARGET_TOKENS,
    Plan,
)
from ladder_proof import Proof

from launcher.ladder.design import Sizes, design_ladder
from launcher.ladder.ladder_file import LadderPlan
from launcher.run.config import load_run_config
from laws.size_rules.power import PowerConfig
from model.size import parameters

CONFIG = Path(__file__).resolve().parents[2] / "benchmarks/ladder.yaml"
VOCABULARY = 512


@pytest.fixture(scope="module", params=[-1.2, PowerConfig().lr_by_parameters, -0.2])
def ladder(request: pytest.FixtureRequest) -> LadderPlan:
    """The ladder that the proof plans, whatever power its sweeps find."""
    base = load_run_config(CONFIG)
    model = base.model.with_vocabulary(VOCABULARY)
    return design_ladder(
        base,
        model,
        PowerConfig(lr_by_parameters=request.param),
        target=TARGET_PARAMETERS,
        tokens=TARGET_TOKENS,
        budget=BUDGET,
        sizes=Sizes(SIZES, SPACING),
        seeds=LADDER_SEEDS,
    )


def test_the_rungs_and_the_target_are_as_asked(ladder: LadderPlan) -> None:
    sizes = sorted({rung.parameters for rung in ladder.rungs})
    assert sizes[0] > 18_000
    assert sizes[-1] < 200_000
    assert len(sizes) == SIZES
    largest = max(rung.flops for rung in ladder.rungs)
    assert largest <= MOST_FLOPS
    assert ladder.target.flops >= LEAST_RATIO * largest
    assert 0.95e6 < ladder.target.parameters < 1.05e6
    assert ladder.target.tokens == pytest.approx(20e6, rel=0.01)


def test_the_small_sweep_is_half_as_large_and_as_long_as_the_config() -> None:
    base, small = load_run_config(CONFIG), load_run_config(CONFIG, SMALL)
    sizes = [parameters(run.model.with_vocabulary(VOCABULARY), seq_length=128) for run in (base, small)]
    tokens = [run.train.steps * run.train.global_batch_size for run in (base, small)]
    assert sizes[0] / sizes[1] == pytest.approx(tokens[0] / tokens[1], rel=0.05)
    assert 1.5 < sizes[0] / sizes[1] < 2.5


def test_a_mistake_in_the_config_is_one_message(tmp_path: Path) -> None:
    command = [sys.executable, str(CONFIG.with_name("ladder_proof.py")), "--record", str(tmp_path / "report.md")]
    words = ["--folder", str(tmp_path / "runs"), "--runs", str(tmp_path / "runs.jsonl")]
    done = subprocess.run(
        [*command, *words, str(CONFIG), "optim.lrr=1"], capture_output=True, text=True, cwd=CONFIG.parents[1]
    )
    assert done.returncode == 2, done.stderr
    assert "error: overrides:\n  optim.lrr: unknown key" in done.stderr
    assert not (tmp_path / "report.md").exists()


def test_a_sweep_is_widened_until_its_best_lr_lies_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best, grids = 0.1, []
    monkeypatch.setattr(Proof, "_sweep", lambda self, words, *options: grids.append(options[1]))
    monkeypatch.setattr(
        Proof, "_best_lr", lambda self, words, lrs: min(lrs, key=lambda lr: abs(math.log(float(lr) / best)))
    )
    plan = Plan(CONFIG, (), tmp_path, lrs=(0.01, 0.02, 0.04))
    proof = Proof(plan, runs=tmp_path / "runs.jsonl", register=tmp_path / "register.json", jobs=1)
    proof._tune(["sweep"])
    assert grids == [
        "optim.lr=0.01,0.02,0.04",
        "optim.lr=0.01,0.02,0.04,0.08",
        "optim.lr=0.01,0.02,0.04,0.08,0.16",
    ]
    best, grids[:] = 0.006, []
    proof._tune(["sweep"])
    assert grids[-1] == "optim.lr=0.0025,0.005,0.01,0.02,0.04"
