"""`lehr plan`: its table, its JSON, the config that it writes, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from processes import lehr
from typer.testing import CliRunner

from launcher.cli import make_app
from launcher.plan.law_advice import shared_rows
from launcher.run.config import load_run_config
from launcher.run.preflight import check_config
from laws.scaling.hyperparameters import step_law
from train.metrics.jsonl import read_metrics


def plan(*arguments: object) -> str:
    result = CliRunner().invoke(make_app(["plan"]), ["plan", *map(str, arguments)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(make_app(["plan"]), ["plan", *map(str, arguments)])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    return result.stderr


def as_json(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plan(*arguments, "--json"))
    return found


def test_the_plan_of_a_small_run_says_all_that_it_should(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "planned.yaml"
    text = plan(config, "--gpus", "4", "--gpu", "cpu", "--price", "2", "-o", output)
    for words in (
        *("4 x x86-64 core", "cannot be:", "memory of the fullest rank: ", "at most while it is built"),
        *("time of a step: ", "sent by a rank in a step over the", "GPU hours", "MWh", "in money"),
        *("why it is the first:", "what would change it:", "Step Law (arXiv 2503.04715)", "tokens a parameter"),
    ):
        assert words in text, words
    planned = load_run_config(output)
    assert planned.parallel.ranks == 4
    assert check_config(planned, world_size=4) == []
    values = as_json(config, "--gpus", "4", "--gpu", "cpu")["layouts"][0]["values"]
    assert planned.parallel.tensor == values["parallel.tensor"]
    assert planned.train.micro_batch_size == values["train.micro_batch_size"]
    assert planned.train.recompute == values["train.recompute"]
    assert f"--output {output} exists" in refused(config, "-o", output)
    assert "the config's own layout: the first" in plan(output, "--gpus", "4", "--gpu", "cpu")
    own = next(line for line in text.splitlines() if line.startswith("the config's own layout: "))
    assert "s a step, +" in own
    assert "is not among them: train.global_batch_size = 8 must be" in plan(config, "--gpus", "8", "--gpu", "cpu")
    rows = ("train.micro_batch_size=128", "train.global_batch_size=128")  # more than a plan chooses
    assert re.search(r"own layout: .* a step, .\d+% against the first", plan(config, *rows, "--gpus", "1"))


@pytest.mark.slow
def test_a_planned_config_trains(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "planned.yaml"
    plan(config, "--gpus", "2", "--gpu", "cpu", "--keep", "parallel.tensor", "parallel.tensor=2", "-o", output)
    done = lehr("train", output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["step"] for row in read_metrics(tmp_path / "runs/try/metrics.jsonl")][-1] == 8


def test_json_has_every_number(config: Path) -> None:
    found = as_json(config, "--gpus", "8", "--gpu", "h200", "--keep", "parallel.tensor", "parallel.tensor=2")
    assert {one["values"]["parallel.tensor"] for one in found["layouts"]} == {2}
    for one in found["layouts"]:
        assert sum(one["seconds"].values()) == pytest.approx(one["seconds_per_step"])
        assert one["tokens_per_second"] == pytest.approx(8 * 32 / one["seconds_per_step"])
        assert one["run"]["seconds"] == pytest.approx(8 * one["seconds_per_step"])
        assert one["run"]["energy_mwh"] == pytest.approx(one["run"]["gpu_hours"] * 1275 / 1e6)
        assert one["memory_bytes"]["most"] >= one["memory_bytes"]["weights"] + one["memory_bytes"]["optimizer state"]
    assert found["fitting"] >= len(found["layouts"])
    assert found["refused"]["parallel.zero"]["count"] > 0


def test_a_budget_sets_the_steps(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "planned.yaml"
    plan(config, "--gpus", "2", "--tokens", "10000", "-o", output)
    assert load_run_config(output).train.steps == 10000 // (8 * 32)
    flops = as_json(config, "--gpus", "2")["flops_per_token"]
    assert as_json(config, "--gpus", "2", "--flops", str(25600 * flops))["tokens"] == 25600
    speed = as_json(config, "--gpus", "2")["layouts"][0]["tokens_per_second"]
    hours = as_json(config, "--gpus", "2", "--hours", "0.5")
    assert hours["tokens"] == pytest.approx(1800 * speed, rel=0.01)
    assert "--hours and --tokens are different budgets" in refused(config, "--hours", "1", "--tokens", "5")
    assert "a step takes 256" in refused(config, "--tokens", "5")


def test_the_law_gives_lr_and_batch(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "planned.yaml"
    found = as_json(config, "--gpus", "2", "--law", "--tokens", "1e8", "-o", output)
    matrices = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    law = step_law(parameters=matrices, tokens=1e8)
    planned = load_run_config(output)
    assert planned.optim.lr == pytest.approx(law.lr, rel=0.01)
    assert planned.train.global_batch_size == shared_rows(law.rows(32), 2) == found["law"]["global_batch_size"]
    assert planned.train.global_batch_size * 32 == pytest.approx(law.batch_tokens, rel=0.01)
    assert planned.train.steps == 1e8 // (planned.train.global_batch_size * 32)
    assert any("outside" in warning for warning in found["warnings"])
    assert [shared_rows(rows, 64) for rows in (1, 31, 33, 100)] == [1, 16, 64, 128]


def test_a_run_without_shards_is_planned_by_its_own_vocabulary(config: Path) -> None:
    text = plan(config, "data.shards=nowhere", "model.vocab_size=512", "--gpus", "2")
    assert "layouts: " in text
    assert "or set model.vocab_size" in refused(config, "data.shards=nowhere", "--gpus", "2")


def test_what_cannot_be_planned_gets_one_message(config: Path) -> None:
    assert "there is no such machine file" in refused(config, "--gpu", "tpu")
    assert "a plan chooses parallel.tensor, " in refused(config, "--keep", "optim.lr")
    small = refused(config, "--gpus", "1", "--gpu", "cpu", "model.hidden_size=65536", "model.ffn_size=262144")
    assert "no layout of 1 x x86-64 core fits into" in small
    assert "no optimizer is called" in refused(config, "--gpus", "2", "optim.name=adamx")
