"""Fit, predict, choose a schedule, train it under the forecast: as a user does, with real runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from processes import lehr

from train.metrics_file import read_metrics

STEPS = 120


def document(rng: np.random.Generator) -> list[int]:
    return [*(rng.zipf(1.3, 60) % 199 + 1).tolist(), 0]


def made_shards(folder: Path, *, seed: int = 0) -> Path:
    sys.path.append(str(Path(__file__).parents[1] / "data"))
    from made_shards import write_source

    rng = np.random.default_rng(seed)
    train, held_out = ([document(rng) for _ in range(number)] for number in (300, 40))
    write_source(folder, "plays", train=[train], held_out=[held_out], vocab_size=200)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config in a folder where runs are trained."""
    folder = tmp_path_factory.mktemp("forecast")
    plain: dict[str, Any] = {
        "run": {"name": "try", "folder": str(folder / "runs"), "seed": 1},
        "data": {"shards": str(made_shards(folder / "shards"))},
        "model": {"num_layers": 1, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 48},
        "optim": {"name": "adamw", "lr": 3e-3},
        "schedule": {"name": "cosine", "warmup_steps": 10, "min_lr": 3e-4},
        "train": {"steps": STEPS, "seq_length": 32, "micro_batch_size": 8, "global_batch_size": 8},
        "evaluate": {"every_steps": 4, "max_windows": 16},
        "checkpoint": {"every_steps": 0},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(plain))
    return path


def run(*arguments: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = lehr(*arguments)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def fit(base: Path) -> Path:
    """Of two real runs, constant and cosine, as `lehr law fit` writes it."""
    runs = base.parent / "runs"
    run("train", base, "run.name=cosine")
    run("train", base, "run.name=constant", "schedule={name: constant, warmup_steps: 10}")
    path = base.parent / "fit.json"
    out = run("law", "fit", runs / "cosine", runs / "constant", "-o", path, "--samples", "50").stdout
    assert "cosine" in out
    assert "alpha" in out
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return path


def final_loss(text: str) -> tuple[float, float, float]:
    """Of `predict`'s last line: the loss and its interval."""
    words = text[text.index("final loss") :].replace(")", "").split()
    return float(words[2]), float(words[4]), float(words[6])


@pytest.mark.slow
def test_a_fit_says_what_it_was_fitted_on(fit: Path) -> None:
    plain = json.loads(fit.read_text())
    origins = [curve["origin"] for curve in plain["curves"]]
    assert origins[0] == origins[1]  # the schedule is not part of it: the law covers that
    assert origins[0]["model.hidden_size"] == 32
    assert origins[0]["train.global_batch_size"] == 8
    assert origins[0]["loss"] == "held_out/loss"
    assert len(origins[0]["shards: held-out split"]) == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [
        "wsd:decay_steps=40,min_lr=3e-4,warmup_steps=10",
        "linear:min_lr=3e-4,warmup_steps=10",
    ],
)
def test_the_schedule_a_law_predicts_is_the_one_a_run_takes(base: Path, fit: Path, schedule: str) -> None:
    """The forecast in training is `lehr law predict`'s, of the same schedule given in either way."""
    from launcher.law_inputs import name_and_options

    section = yaml.safe_dump(name_and_options(schedule, option=""), default_flow_style=True).strip()
    name = schedule.partition(":")[0]
    predicted = final_loss(run("law", "predict", fit, "--schedule", schedule, "--steps", str(STEPS)).stdout)
    arguments = ("train", base, f"run.name={name}", f"schedule={section}", f"train.forecast={fit}")
    done = run(*arguments)
    folder = base.parent / "runs" / name
    rows = read_metrics(folder / "metrics.jsonl")
    last = rows[-1]
    assert predicted == pytest.approx((last["forecast/loss"], last["forecast/low"], last["forecast/high"]), abs=5.1e-5)
    seen = [row for row in rows if "forecast/final" in row]
    assert {row["forecast/final"] for row in seen} == {last["forecast/loss"]}
    error = 100 * (last["held_out/loss"] / last["forecast/loss"] - 1)
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith(f"held-out loss: forecast {last['forecast/loss']:.4f} (90%: ")
    assert verdict.endswith(f"fact {last['held_out/loss']:.4f}, error {error:+.2f}%")
    again = run("law", "predict", fit, "--schedule", folder / "config.yaml", "--steps", str(STEPS)).stdout
    assert final_loss(again) == predicted


@pytest.mark.slow
def test_a_chosen_schedule_trains_as_it_was_written(base: Path, fit: Path) -> None:
    """The config fragment, the table and the overrides that `schedule` emits are the same run."""
    best = base.parent / "best"
    out = run("law", "schedule", fit, "--steps", str(STEPS), "-o", best).stdout
    line = next(line for line in out.splitlines() if line.startswith("lehr train CONFIG "))
    import shlex

    overrides = shlex.split(line)[3:]
    table = [f"schedule={{name: table, file: {best / 'schedule.json'}}}"]
    lr = json.loads((best / "schedule.json").read_text())
    runs = base.parent / "runs"
    for name, given in (("fragment", overrides), ("table", [*table, f"optim.lr={max(lr)}"])):
        run("train", base, f"run.name={name}", f"train.forecast={fit}", *given)
        rows = read_metrics(runs / name / "metrics.jsonl")
        assert [row["lr"] for row in rows] == pytest.approx(lr, rel=1e-12)
    fragment = yaml.safe_load((best / "config.yaml").read_text())
    merged = {**yaml.safe_load(base.read_text())}
    merged["schedule"], merged["optim"] = fragment["schedule"], {**merged["optim"], **fragment["optim"]}
    merged["train"] |= fragment["train"]
    (best / "merged.yaml").write_text(json.dumps(merged))
    run("train", best / "merged.yaml", "run.name=merged")
    losses = [row["loss"] for row in read_metrics(runs / "fragment" / "metrics.jsonl")]
    assert [row["loss"] for row in read_metrics(runs / "merged" / "metrics.jsonl")] == losses


@pytest.mark.slow
def test_auto_forecasts_from_the_runs_own_losses_and_a_stop_changes_nothing(base: Path) -> None:
    runs = base.parent / "runs"
    whole = run("train", base, "run.name=auto", "train.forecast=auto")
    assert "not yet, " in whole.stdout
    assert whole.stdout.splitlines()[-1].startswith("held-out loss")
    run("train", base, "run.name=auto_cut", "train.forecast=auto", "train.steps=60")
    # The schedule is drawn over the new length, so only the keys are compared with those of the whole run.
    run("train", base, "run.name=auto_cut", "train.forecast=auto")
    rows = read_metrics(runs / "auto_cut" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert any("forecast/loss" in row for row in rows)


@pytest.mark.slow
def test_mistakes_are_said_before_anything_starts(base: Path, fit: Path) -> None:
    def mistake(*overrides: str) -> str:
        message = run("train", base, "run.name=wrong", *overrides, expect=2).stderr
        assert not (base.parent / "runs" / "wrong").exists()
        return message

    folder = base.parent
    (folder / "other.json").write_text('{"a": 1}')
    (folder / "garbage.json").write_text("{]")
    plain = json.loads(fit.read_text())
    (folder / "nan.json").write_text(json.dumps({**plain, "values": {**plain["values"], "L0": float("nan")}}))
    (folder / "few.json").write_text(json.dumps({**plain, "values": {"L0": 1.0}}))
    assert "does not exist" in mistake("train.forecast=no.json")
    assert "is no fit file" in mistake(f"train.forecast={folder / 'other.json'}")
    assert "cannot be read" in mistake(f"train.forecast={folder / 'garbage.json'}")
    assert "values.L0" in mistake(f"train.forecast={folder / 'nan.json'}")
    assert "has the parameters" in mistake(f"train.forecast={folder / 'few.json'}")
    named = f"train.forecast={fit}"
    assert "model.hidden_size: 32 there, 64 here" in mistake(named, "model.hidden_size=64")
    assert "train.global_batch_size: 8 there, 16 here" in mistake(named, "train.global_batch_size=16")
    assert "evaluate.max_windows: 16 there, 8 here" in mistake(named, "evaluate.max_windows=8")
    other = made_shards(folder / "other_shards", seed=1)
    assert "shards: held-out split" in mistake(named, f"data.shards={other}")
    stages = "data.stages=[{from_step: 50, mixture: {plays: 1}}]"
    assert "changes the mix of data at step 50" in mistake("train.forecast=auto", stages)


@pytest.mark.slow
def test_doubts_are_warnings(base: Path, fit: Path) -> None:
    short = ("train.steps=12", "evaluate.every_steps=0")
    done = run("train", base, "run.name=decay", f"train.forecast={fit}", "optim.weight_decay=0.3", *short)
    assert "optim.weight_decay: 0.1 there, 0.3 here" in done.stderr
    done = run("train", base, "run.name=rare", "train.forecast=auto", *short)
    assert "a forecast needs 8" in done.stderr
    assert "there was no forecast of it" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_runs_of_two_models_are_not_fitted_together(base: Path, fit: Path) -> None:
    runs = base.parent / "runs"
    run("train", base, "run.name=wide", "model.hidden_size=64", "train.steps=60", "evaluate.every_steps=5")
    message = run("law", "fit", runs / "cosine", runs / "wide", expect=2).stderr
    assert "model.hidden_size: 32 there, 64 here" in message
