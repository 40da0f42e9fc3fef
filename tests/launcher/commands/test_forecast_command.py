"""A user's way from runs to a forecast: fit, predict, choose a schedule, train with `train.forecast`."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from processes import lehr

from launcher.run.config import RunConfig
from launcher.run.preflight import check_config
from settings import UserError, compose, read_yaml
from train.metrics.jsonl import read_metrics

STEPS = 120
OF_THE_MACHINE = {"seconds_per_step", "tokens_per_second", "mfu", "memory_bytes"}


def document(rng: np.random.Generator) -> list[int]:
    return [*(rng.zipf(1.3, 60) % 199 + 1).tolist(), 0]


def write_shards(folder: Path, *, seed: int = 0) -> Path:
    sys.path.append(str(Path(__file__).parents[2] / "data"))
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
        "data": {"shards": str(write_shards(folder / "shards"))},
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
    """The fit file of `lehr law fit` for two real runs, constant and cosine."""
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
    """Reads the loss and its interval from the last line of `predict`."""
    words = text[text.index("final loss") :].replace(")", "").split()
    return float(words[2]), float(words[4]), float(words[6])


@pytest.mark.slow
def test_a_fit_records_the_provenance_of_its_runs(fit: Path) -> None:
    plain = json.loads(fit.read_text())
    provenances = [curve["origin"] for curve in plain["curves"]]
    assert provenances[0] == provenances[1]  # it has no schedule, because the law covers schedules
    assert provenances[0]["model.hidden_size"] == 32
    assert provenances[0]["train.global_batch_size"] == 8
    assert provenances[0]["loss"] == "held_out/loss"
    assert len(provenances[0]["shards: held-out split"]) == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    [
        "{name: wsd, decay_steps: 40, min_lr: 3e-4, warmup_steps: 10}",
        "{name: linear, min_lr: 3e-4, warmup_steps: 10}",
    ],
)
def test_the_schedule_a_law_predicts_is_the_one_a_run_takes(base: Path, fit: Path, schedule: str) -> None:
    """The forecast in training is `lehr law predict`'s, of the same schedule given in either way."""
    name = yaml.safe_load(schedule)["name"]
    predicted = final_loss(run("law", "predict", fit, f"schedule={schedule}", f"train.steps={STEPS}").stdout)
    arguments = ("train", base, f"run.name={name}", f"schedule={schedule}", f"train.forecast={fit}")
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
    held = last["forecast/final_low"] <= last["held_out/loss"] <= last["forecast/final_high"]
    inside = "inside" if held else "outside"
    assert verdict.endswith(f"fact {last['held_out/loss']:.4f}, error {error:+.2f}%, {inside} the interval")
    again = run("law", "predict", fit, folder / "config.yaml").stdout
    assert final_loss(again) == predicted


@pytest.mark.slow
def test_a_plan_forecasts_and_chooses_as_the_law_does(base: Path, fit: Path) -> None:
    out = run("plan", base, "--gpus", "2", "--gpu", "cpu", "--fit", fit, "--json").stdout
    found = json.loads(out)
    forecast = [found["forecast"][key] for key in ("loss", "low", "high")]
    assert forecast == pytest.approx(final_loss(run("law", "predict", fit, base).stdout), abs=6e-5)
    chosen = run("law", "schedule", fit, "--steps", str(STEPS), "--constraint", "free_form=false").stdout
    assert (
        yaml.safe_load(chosen[chosen.index("train:") : chosen.index("and as a run")])["schedule"] == found["schedule"]
    )
    text = run("plan", base, "--gpus", "2", "--gpu", "cpu", "--fit", fit).stdout
    assert "forecast of the final held-out loss: " in text
    (override,) = re.findall(r"schedule with the lowest forecast at this lr, [\d.]+: schedule=(.*)", text)
    assert yaml.safe_load(override) == found["schedule"]
    done = run("plan", base, "model.num_layers=2", "--gpus", "2", "--fit", fit, expect=2)
    assert "it was fitted on a run of another model" in done.stderr


@pytest.mark.slow
def test_a_chosen_schedule_trains_as_it_was_printed(base: Path, fit: Path) -> None:
    """The config fragment, the table and the overrides that `schedule` emits are the same run."""
    best = base.parent / "best"
    out = run("law", "schedule", fit, "--steps", str(STEPS), "-o", best).stdout
    line = next(line for line in out.splitlines() if line.startswith("lehr train CONFIG "))
    overrides = shlex.split(line)[3:]
    table = [f"schedule={{name: table, file: {best / 'schedule.json'}}}"]
    lr = json.loads((best / "schedule.json").read_text())
    runs = base.parent / "runs"
    for name, given in (("fragment", overrides), ("table", [*table, f"optim.lr={max(lr)}"])):
        run("train", base, f"run.name={name}", *given)
        rows = read_metrics(runs / name / "metrics.jsonl")
        assert [row["lr"] for row in rows] == pytest.approx(lr, rel=1e-12)
    fragment = yaml.safe_load((best / "config.yaml").read_text())
    assert fragment["train"] == {"steps": STEPS}
    plain = read_yaml(base, overrides)
    assert plain["schedule"] == fragment["schedule"]
    assert plain["optim"]["lr"] == fragment["optim"]["lr"]


@pytest.mark.slow
def test_auto_forecasts_the_same_after_a_crash(base: Path) -> None:
    """Continued from the checkpoint at half, every line of both halves is the same, forecasts to the bit."""
    run_folder = base.parent / "runs" / "auto"
    arguments = ("train", base, "run.name=auto", "train.forecast=auto", "checkpoint.every_steps=60")
    uninterrupted = run(*arguments)
    assert "final: not yet, 5 of 8 held-out losses" in uninterrupted.stdout
    assert uninterrupted.stdout.splitlines()[-1].startswith("held-out loss")
    rows = read_metrics(run_folder / "metrics.jsonl")
    assert any("forecast/final" in row for row in rows[:-1])
    shutil.rmtree(run_folder / "checkpoints" / f"step-{STEPS:08d}")
    (run_folder / "checkpoints" / "latest").write_text(f"step-{STEPS // 2:08d}\n")
    again = run(*arguments)
    assert f"step {STEPS // 2} " not in again.stdout
    for before, after in zip(rows, read_metrics(run_folder / "metrics.jsonl"), strict=True):
        assert {key: value for key, value in after.items() if key not in OF_THE_MACHINE} == {
            key: value for key, value in before.items() if key not in OF_THE_MACHINE
        }
    assert again.stdout.splitlines()[-1] == uninterrupted.stdout.splitlines()[-1]


@pytest.fixture
def mistake(base: Path) -> Callable[..., str]:
    """Returns the message about a config before anything starts."""

    def checked(*overrides: str) -> str:
        with pytest.raises(UserError) as caught:
            check_config(compose(RunConfig, base, overrides), world_size=1)
        return str(caught.value)

    return checked


@pytest.mark.slow
def test_a_file_that_is_no_fit_is_refused(base: Path, fit: Path, mistake: Callable[..., str]) -> None:
    plain = json.loads(fit.read_text())
    texts = {
        "other": '{"a": 1}',
        "garbage": "{]",
        "nan": json.dumps({**plain, "values": {**plain["values"], "L0": float("nan")}}),
        "few": json.dumps({**plain, "values": {"L0": 1.0}}),
    }
    for name, text in texts.items():
        (base.parent / f"{name}.json").write_text(text)
    assert "is no fit file" in mistake(f"train.forecast={base.parent / 'other.json'}")
    assert "is no fit file" in mistake(f"train.forecast={base.parent / 'garbage.json'}")
    assert "values.L0" in mistake(f"train.forecast={base.parent / 'nan.json'}")
    assert "has the parameters" in mistake(f"train.forecast={base.parent / 'few.json'}")
    done = run("train", base, "run.name=wrong", "train.forecast=no.json", expect=2)
    assert "fit file no.json does not exist" in done.stderr
    assert not (base.parent / "runs" / "wrong").exists()


@pytest.mark.slow
def test_a_fit_of_another_model_or_data_is_refused(base: Path, fit: Path, mistake: Callable[..., str]) -> None:
    named = f"train.forecast={fit}"
    assert "model.hidden_size: 32 there, 64 here" in mistake(named, "model.hidden_size=64")
    assert "train.global_batch_size: 8 there, 16 here" in mistake(named, "train.global_batch_size=16")
    assert "evaluate.max_windows: 16 there, 8 here" in mistake(named, "evaluate.max_windows=8")
    other = write_shards(base.parent / "other_shards", seed=1)
    assert "shards: held-out split" in mistake(named, f"data.shards={other}")
    stages = "data.stages=[{from_step: 50, mixture: {plays: 1}}]"
    assert "changes the mix of data at step 50" in mistake("train.forecast=auto", stages)


@pytest.mark.slow
def test_slight_differences_are_warnings(base: Path, fit: Path) -> None:
    def warnings(*overrides: str) -> str:
        return "\n".join(check_config(compose(RunConfig, base, overrides), world_size=1))

    named = f"train.forecast={fit}"
    assert warnings(named) == ""
    moved = shutil.copytree(base.parent / "shards", base.parent / "moved", dirs_exist_ok=True)
    assert warnings(named, f"data.shards={moved}", "parallel.tensor=1", "run.seed=5") == ""
    assert "optim.weight_decay: 0.1 there, 0.3 here" in warnings(named, "optim.weight_decay=0.3")
    assert "the peak lr 0.006 is not within those of the fit" in warnings(named, "optim.lr=6e-3")
    plain = json.loads(fit.read_text())
    for curve in plain["curves"]:
        curve["origin"] = {}
    (base.parent / "unknown.json").write_text(json.dumps(plain))
    assert "does not record the runs of its curves" in warnings(f"train.forecast={base.parent / 'unknown.json'}")
    assert "a forecast needs 8: set it to 4" in warnings("train.forecast=auto", "evaluate.every_steps=50")


@pytest.mark.slow
def test_runs_of_two_batches_are_not_fitted_together(base: Path, fit: Path) -> None:
    runs = base.parent / "runs"
    shutil.copytree(runs / "cosine", runs / "batch", ignore=shutil.ignore_patterns("checkpoints"))
    text = (runs / "batch" / "config.yaml").read_text()
    (runs / "batch" / "config.yaml").write_text(text.replace("global_batch_size: 8", "global_batch_size: 16"))
    message = run("law", "fit", runs / "cosine", runs / "batch", expect=2).stderr
    assert "train.global_batch_size: 8 there, 16 here" in message
