"""The proof of continual pretraining: its plan is whole, it goes on from its lines, its report has every arm."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from continual_plan import ARMS, COSINE, INFINITE, REPLAY_PERCENT, SEEDS, UNION, Arm, Plan, Sizes, arm_of
from continual_proof import Proof
from continual_report import QUESTIONS, write_report
from small_runs import make_shards

from launcher.run.config import load_run_config
from launcher.run.stages import run_schedule
from launcher.sweep.grid import parse_axes
from launcher.sweep.records import Record, add_record, read_records
from model.size import parameters

CONFIG = Path(__file__).resolve().parents[2] / "benchmarks/continual.yaml"
PLAN = Plan(CONFIG, (), Path("build/continual"))


def overrides(arm: Arm, seed: int = 1) -> list[str]:
    parent = None if arm.trunk == UNION else Path("trunk")
    return [*PLAN.arm_overrides(arm.trunk, seed, parent), f"stages={PLAN.stages(arm)}"]


def test_the_plan_has_every_arm_of_the_question_and_a_model_of_the_stated_size() -> None:
    names = [arm.name for arm in ARMS]
    assert len(set(names)) == len(names)
    assert {f"rewarm-{percent}" for percent in REPLAY_PERCENT} <= set(names)
    assert {"infinite-0", "infinite-25", "flat-0", "flat-25", "weak-0", "weak-5", "old-alone", "union"} <= set(names)
    assert {one for _, *pair, _ in QUESTIONS for one in pair} <= set(names)
    assert all(arm.seeds in (SEEDS, SEEDS[:1]) for arm in ARMS)
    model = PLAN.base.model.with_vocabulary(2048)
    assert 200_000 < parameters(model, seq_length=128) <= 300_000


def test_all_arms_end_at_one_lr_and_go_on_from_that_of_their_trunk() -> None:
    trunks = {
        trunk: run_schedule(load_run_config(CONFIG, PLAN.trunk_overrides(trunk, 1))) for trunk in (COSINE, INFINITE)
    }
    for arm in ARMS:
        schedule = run_schedule(load_run_config(CONFIG, overrides(arm)))
        assert schedule(schedule.total_steps - 1) == pytest.approx(6e-4, rel=1e-12), arm.name
        if arm.trunk != UNION:
            steps = range(PLAN.old_steps)
            assert schedule.lr(steps).tolist() == trunks[arm.trunk].lr(steps).tolist(), arm.name
            peak = max(schedule.lr(range(schedule.total_steps))[PLAN.old_steps :])
            expected = 6e-3 * arm.peak if arm.rewarms else 3e-3 if arm.trunk == INFINITE else 6e-4
            assert peak == pytest.approx(expected, rel=1e-12), arm.name


def test_the_tokens_of_the_arms_are_equal_and_replay_comes_on_top_of_the_scarce_target_alone() -> None:
    for arm in ARMS:
        config = load_run_config(CONFIG, overrides(arm))
        new = config.train.steps - PLAN.old_steps
        if arm.group == "scarce target":
            assert new * (1 - arm.replay_percent / 100) == pytest.approx(200, abs=1)
        else:
            assert new == 400


def test_the_arms_of_a_trunk_are_values_of_one_axis(tmp_path: Path) -> None:
    arms = [arm for arm in ARMS if arm.trunk == COSINE]
    (axis,) = parse_axes([f"stages={','.join(PLAN.stages(arm) for arm in arms)}"])
    assert [arm_of({"stages": value}) for value in axis.values] == [arm.name for arm in arms]


def record(name: str, seed: int, old: float, new: float, source: str) -> Record:
    point = {"stages": json.dumps([{"name": name}])} if name else {"schedule.name": "cosine"}
    return Record(
        config=f"{name}-{seed}",
        point=point,
        seed=seed,
        diverged=False,
        loss=1.0,
        loss_is="held_out",
        bits_per_byte={"prose": old, source: new},
        steps=1200,
        tokens=10,
        seconds=12.0,
    )


def test_the_report_has_paired_differences_and_says_what_is_missing(tmp_path: Path) -> None:
    runs = tmp_path / "runs.jsonl"
    for seed in SEEDS:
        add_record(runs, record("", seed, 2.0 + seed, 2.0 + seed, "prose"))
        add_record(runs, record("rewarm-0", seed, 2.5 + seed, 1.5, "french"))
        add_record(runs, record("rewarm-25", seed, 2.125 + seed + seed / 1000, 1.625, "french"))
    proof = Proof(PLAN, runs=runs, jobs=2)
    assert proof.progress().startswith(f"6 of {sum(len(arm.seeds) for arm in ARMS)} arms are finished, about ")
    write_report(proof.finished(), ARMS, tmp_path / "report.md", tmp_path / "plot.png")
    text = (tmp_path / "report.md").read_text()
    assert "| rewarm-0 | re-warm | 3 of 3 | 4.5000 | 0.5000 | 1.5000 |" in text
    assert "| union | union from the start | 0 of 3 |  |  |  |" in text
    assert "(rewarm-25 against rewarm-0, old) -0.3730 ± 0.0006 bits per byte, 3 seeds: lower." in text
    assert "(weak-5 against weak-0, old) not measured yet." in text
    assert (tmp_path / "plot.png").stat().st_size > 5_000


@pytest.mark.slow
def test_a_mistake_in_the_config_ends_it_with_one_message_and_writes_no_report(tmp_path: Path) -> None:
    command = [sys.executable, str(CONFIG.with_name("continual_proof.py")), "--record", str(tmp_path / "report.md")]
    done = subprocess.run([*command, str(CONFIG), "optim.lrr=1"], capture_output=True, text=True, cwd=CONFIG.parents[1])
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "optim.lrr" in done.stderr
    assert not (tmp_path / "report.md").exists()


@pytest.mark.slow
def test_the_proof_trains_what_is_missing_and_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arms of one seed, of a few steps each, on made shards: from a trunk, resumed after one arm."""
    monkeypatch.setattr("continual_proof.SEEDS", SEEDS[:1])
    shards = make_shards(tmp_path)
    words = (f"data.shards={shards}", "data.sources={}", "data.mixture={alpha: 1}", "data.verify_hashes=false")
    arms = tuple(replace(arm, new="beta", seeds=SEEDS[:1]) for arm in ARMS if arm.name in ("rewarm-25", "infinite-0"))
    monkeypatch.setattr("continual_plan.OLD", "alpha")
    plan = Plan(CONFIG, words, tmp_path / "runs", arms[:1], Sizes(divisor=100))
    runs = tmp_path / "runs.jsonl"
    monkeypatch.setattr(Proof, "_build", lambda self: None)  # the shards are made already
    Proof(plan, runs=runs, jobs=1).work()
    first = runs.read_text()
    assert [arm_of(line.point) for line in read_records(runs).values()] == ["", "rewarm-25"]
    both = Proof(replace(plan, arms=arms), runs=runs, jobs=1)
    both.work()
    assert runs.read_text().startswith(first)
    assert set(both.finished()) == {
        ("trunk-cosine", 1), ("trunk-infinite", 1), ("rewarm-25", 1), ("infinite-0", 1)
    }  # fmt: skip
    before = runs.read_text()
    both.work()
    assert runs.read_text() == before
