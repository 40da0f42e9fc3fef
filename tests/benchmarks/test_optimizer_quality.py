"""The benchmark of the optimizers' quality: the runs it plans, the figures it reads off them, two real tiny runs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_shards import documents, write_source
from optimizer_quality_report import plot, report
from optimizer_quality_results import Result, add_result, best_lr, of_study, read_results, tokens_to
from optimizer_quality_studies import SEEDS, TASKS, Spec, digest, run_config, studies, tiny, wanted

from optim.groups import rule_of

ROOT = Path(__file__).parents[2]


def result_of(spec: Spec, loss: float, *, steps: int = 4) -> Result:
    return {
        **spec.labels(),
        "config": "",
        "commit": None,
        "cpu_seconds": 1.0,
        "diverged": not math.isfinite(loss),
        "tokens": [int(1000 * spec.length * step) for step in range(1, steps + 1)],
        "held_out": [loss + steps - step for step in range(1, steps + 1)] if math.isfinite(loss) else [],
        "fire_rate": None,
    }


def all_results(best_lrs: dict[str, float], default: float) -> list[Result]:
    """Returns all results if a loss is a parabola over log2 lr and lrs above 2.8 times the best diverge."""
    results: list[Result] = []
    while missing := [spec for spec in wanted(results, TASKS) if spec.name not in {run["run"] for run in results}]:
        spec = missing[0]
        octaves = math.log2(spec.lr / best_lrs.get(spec.study.name, default))
        results.append(result_of(spec, math.inf if octaves > 1.5 else 5 + octaves**2 / spec.length))
    return results


@pytest.mark.parametrize("default", [5e-4, 2e-3, 3e-2])
def test_every_search_ends_with_the_best_lr_inside(default: float) -> None:
    results = all_results({"conda": 0.128, "muon": 2.5e-4}, default)
    assert max(Counter(result["run"] for result in results).values()) == 1
    for study in [study for group in studies(TASKS) for study in group]:
        searched = sorted({run["lr"] for run in of_study(results, study.name) if run["seed"] == SEEDS[0]})
        best = best_lr(results, study.name)
        assert searched[0] < best < searched[-1], study.name
        assert set(TASKS[study.task].first_lrs) <= set(searched)
        assert {run["seed"] for run in of_study(results, study.name) if run["lr"] == best} == set(SEEDS)
    assert best_lr(results, "conda") == 0.128
    assert {run["length"] for run in results if run["study"] == "adamw"} == {1.0, 1.5, 2.0}
    assert of_study(results, "conda-interval-2000")[0]["lr"] == 0.128


def test_configs_differ_only_in_what_is_compared() -> None:
    configs = {}
    for study in [study for group in studies(TASKS) for study in group]:
        config = run_config(Spec(study, 4e-3), TASKS[study.task], shards=Path("shards"), folder=Path("runs"))
        plain = config.to_plain()
        optim = plain.pop("optim")
        assert optim["weight_decay"] == 0.0
        assert optim["lr"] == 4e-3
        plain["run"].pop("name")
        if study.task == "norms":
            plain["model"].pop("init")
            plain["model"].pop("norm_scaling")
        configs.setdefault(study.task, plain)
        assert plain == configs[study.task], study.name
        again = run_config(Spec(study, 4e-3), TASKS[study.task], shards=Path("moved"), folder=Path("elsewhere"))
        assert digest(again) == digest(config)
        assert digest(
            run_config(Spec(study, 4e-3, 2), TASKS[study.task], shards=Path("s"), folder=Path("r"))
        ) != digest(config)
    names = [study.name for group in studies(TASKS) for study in group]
    assert len(set(names)) == len(names)


def test_ablation_has_condas_lr_on_the_matrices_alone() -> None:
    study = next(study for study in studies(TASKS)[1] if study.name == "adamw-99-quarter")
    config = run_config(Spec(study, 1e-2), TASKS["optimizers"], shards=Path("shards"), folder=Path("runs"))
    expected = {
        "layers.0.attention.q.weight": 0.25,
        "layers.3.mlp.down.weight": 0.25,
        "layers.0.mlp_norm.weight": 1.0,
        "embedding.weight": 1.0,
        "head.weight": 1.0,
        "final_norm.weight": 1.0,
    }
    assert {name: rule_of(config.optim.table, name).lr_multiplier for name in expected} == expected


def test_tokens_to_a_loss_lie_between_the_evaluations() -> None:
    run = result_of(Spec(studies(TASKS)[0][0], 1e-3), 5.0)  # 8, 7, 6, 5 after 1000, ..., 4000 tokens
    assert tokens_to(run, 8.5) == 1000
    assert tokens_to(run, 6.25) == 2750
    assert tokens_to(run, 5.0) == 4000
    assert tokens_to(run, 4.9) is None


def test_report_has_the_ratio_to_adamw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = all_results({}, 8e-3)
    for run in results:
        if run["study"] == "conda":
            run["held_out"] = [loss - 1 for loss in run["held_out"]]  # a quarter of the tokens sooner
    report(results, tmp_path / "plot.png")
    shown = capsys.readouterr().out
    assert "| conda | 0.008 | 3 | 4.0000 (4.0000 to 4.0000) | 3 (3 to 3) | 1.33 |" in shown
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    plot(results[:1], tmp_path / "early.png")


def test_line_that_was_cut_off_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first, second = (result_of(Spec(studies(TASKS)[0][0], lr), 5.0) for lr in (1e-3, 2e-3))
    add_result(path, first)
    path.write_bytes(path.read_bytes() + json.dumps(second).encode()[:40])
    assert read_results(path) == [first]
    add_result(path, second)
    assert read_results(path) == [first, second]


@pytest.mark.slow
def test_real_runs_are_recorded_and_not_repeated(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    train, held_out = (documents(rng, tokens=tokens) for tokens in (3000, 300))
    write_source(tmp_path / "shards", "text", train=[train], held_out=[held_out])
    results = tmp_path / "results.jsonl"
    command = [sys.executable, "benchmarks/optimizer_quality.py", "--quick", "--results", str(results)]
    command += ["--shards", str(tmp_path / "shards"), "--folder", str(tmp_path / "runs")]

    def run(*arguments: str) -> str:
        done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("--most-runs", "2")
    lines = read_results(results)
    adamw = studies({name: tiny(task) for name, task in TASKS.items()})[0][0]
    assert {line["run"] for line in lines} == {Spec(adamw, 8e-3).name, Spec(adamw, 4e-3).name}
    for line in lines:
        assert not line["diverged"]
        assert line["tokens"] == [16, 32, 48, 64, 80]  # 5 steps of 2 rows of 8
        assert all(abs(loss - math.log(1024)) < 0.2 for loss in line["held_out"])
    lines[0]["config"] = "of another definition"
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert lines[0]["run"] in run("--most-runs", "1")
    assert [line["run"] for line in read_results(results)] == [*(line["run"] for line in lines), lines[0]["run"]]
    assert "2 runs" in run("--report")
    assert len(read_results(results)) == 3
