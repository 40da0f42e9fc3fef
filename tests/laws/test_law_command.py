"""`lehr law`, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from laws.annealing import AnnealingConfig
from laws.curve import every_step
from laws.fit import load_fit
from laws.schedules import FAMILIES
from optim.schedules import SCHEDULES

TRUTH = {"L0": 2.8, "A": 0.6, "C": 0.5, "alpha": 0.45}


def lehr(*arguments: object, expect: int = 0) -> str:
    """Run `lehr law ...` in a process of its own; its output, or its message where it must fail."""
    command = [sys.executable, "-m", "launcher", "law", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if expect == 0 else done.stderr


def write_csv(path: Path, section: dict[str, object], seed: int) -> Path:
    places = every_step(FAMILIES.parse(section).build(peak_lr=3e-4, total_steps=6000), most=100)
    loss = AnnealingConfig().predict(TRUTH, places)
    loss = loss * np.exp(5e-4 * np.random.default_rng(seed).normal(size=loss.size))
    lr = places.schedule.lr[np.minimum(places.steps, 5999)]
    rows = [f"{step},{rate},{value}" for step, rate, value in zip(places.steps, lr, loss, strict=True)]
    path.write_text("step,lr,loss\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def fit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("law")
    cosine = write_csv(folder / "cosine.csv", {"name": "cosine", "warmup_steps": 100, "min_lr": 3e-5}, 0)
    constant = write_csv(folder / "constant.csv", {"name": "constant", "warmup_steps": 100}, 1)
    out = lehr(
        "fit", cosine, constant, "--law", "annealing", "--samples", 50, "--warmup-steps", 100, "-o", folder / "fit.json"
    )
    assert "alpha" in out
    assert "cosine" in out
    assert (folder / "fit.png").read_bytes().startswith(b"\x89PNG")
    return folder / "fit.json"


def test_fit_finds_the_truth(fit_file: Path) -> None:
    fit = load_fit(fit_file)
    assert fit.values == pytest.approx(TRUTH, rel=0.05)
    assert len(fit.samples) == 50


def test_predict(fit_file: Path, tmp_path: Path) -> None:
    section = {"name": "wsd", "decay_steps": 1000, "min_lr": 3e-5, "warmup_steps": 100}
    schedule = FAMILIES.parse(section).build(peak_lr=3e-4, total_steps=6000)
    truth = AnnealingConfig().predict(TRUTH, every_step(schedule))[-1]
    out = lehr(
        "predict", fit_file, "--schedule", "wsd:decay_steps=1000,min_lr=3e-5", "--steps", 6000, "--plot",
        tmp_path / "p.png",
    )  # fmt: skip
    final = out[out.index("final loss") :].split()
    assert float(final[2]) == pytest.approx(truth, rel=2e-3)
    assert float(final[4]) < truth < float(final[6].rstrip(")"))
    assert (tmp_path / "p.png").stat().st_size > 1000
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"optim": {"name": "adamw", "lr": 3e-4}, "schedule": section}))
    assert lehr("predict", fit_file, "--schedule", config, "--steps", 6000).splitlines()[-1] in out


def test_schedule_writes_what_a_run_takes(fit_file: Path, tmp_path: Path) -> None:
    out = lehr("schedule", fit_file, "--steps", 3000, "--constraint", "min_lr=3e-5", "-o", tmp_path / "best")
    assert "free form" in out
    config = yaml.safe_load((tmp_path / "best" / "config.yaml").read_text())
    lr = SCHEDULES.parse(config["schedule"]).build(peak_lr=config["optim"]["lr"], total_steps=3000)
    table = json.loads((tmp_path / "best" / "schedule.json").read_text())
    assert [lr(step) for step in range(3000)] == pytest.approx(table, rel=1e-12)
    assert (tmp_path / "best" / "schedule.png").stat().st_size > 1000
    again = lehr("predict", fit_file, "--schedule", tmp_path / "best" / "schedule.json", "--steps", 3000)
    assert "final loss" in again


def test_compute(tmp_path: Path) -> None:
    rows = ["parameters,tokens,loss"]
    for n in (1e8, 3e8, 1e9):
        rows += [f"{n},{d},{1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28}" for d in (2e9, 1e10, 5e10)]
    (tmp_path / "runs.csv").write_text("\n".join(rows) + "\n")
    out = lehr("compute", tmp_path / "runs.csv", "--flops", "5.76e23", "--parameters", "5e8", "--tokens", "1e10")
    assert "3.22e+10" in out
    assert f"final loss {1.69 + 406.4 * 5e8**-0.34 + 410.7 * 1e10**-0.28:.4f}" in out


def test_hyperparameters() -> None:
    out = lehr("hyperparameters", "--parameters", "1e9", "--tokens", "1e11", "--seq-length", 2048)
    assert "0.00166" in out
    assert "1,106,818" in out
    out = lehr("hyperparameters", "--lr", "1e-2", "--tuned-width", 256, "--width", 1024)
    assert "0.0025" in out


def test_mistakes_are_one_message(fit_file: Path, tmp_path: Path) -> None:
    constant = fit_file.parent / "constant.csv"
    assert "constant after the warm-up in every curve" in lehr("fit", constant, expect=2)
    assert 'no law is called "aneal"' in lehr("fit", constant, "--law", "aneal", expect=2)
    assert "decoy: unknown key" in lehr("fit", constant, "--law", "annealing:decoy=1", expect=2)
    assert "neither a run folder nor a CSV" in lehr("fit", tmp_path / "no", expect=2)
    assert "does not exist" in lehr("predict", tmp_path / "no", "--schedule", "cosine", "--steps", 10, expect=2)
    bad = ("--schedule", "cosin", "--steps", 100)
    assert 'did you mean "cosine"' in lehr("predict", fit_file, *bad, expect=2)
    assert "unknown key" in lehr("schedule", fit_file, "--steps", 100, "--constraint", "min_lrs=1", expect=2)
    assert "min_lr" in lehr("schedule", fit_file, "--steps", 1000, "--constraint", "min_lr=low", expect=2)
    assert "--tokens is missing" in lehr("hyperparameters", "--parameters", "1e9", expect=2)
