"""The worked example of CONTRIBUTING.md: dropped in as it stands, it is found and passes the contract tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from laws.curve import LrCurve, last_step
from laws.fitting.fitted import Fit
from laws.loss_curves.annealing import AnnealingConfig

ROOT = Path(__file__).parents[1]


def drop_in(folder: Path, *rooms: str) -> Path:
    """A copy of some folders with the worked example's file in its room; that file."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    path, code = re.search(r"The whole change is `([a-z_/]+\.py)`:\n```python\n(.*?)```", text, re.DOTALL).groups()  # type: ignore[union-attr]
    for room in rooms:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / path).write_text(code, encoding="utf-8")
    return folder / path


@pytest.mark.slow
def test_the_worked_example_is_all_that_a_new_schedule_takes(tmp_path: Path) -> None:
    path = drop_in(tmp_path, "schedules", "settings", "tests/schedules")
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/schedules"]
    done = subprocess.run([*command, "-k", "inverse_sqrt"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 8, done.stdout  # the contract tests ran on it
    ruff = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(path)]
    assert subprocess.run(ruff, capture_output=True).returncode == 0


@pytest.mark.slow
def test_the_worked_example_is_forecast_and_searched_too(tmp_path: Path) -> None:
    """The completion offers the method's own keys, without importing torch, which would take seconds."""
    drop_in(tmp_path, "launcher", "train", "laws", "schedules", "settings")
    law, values = AnnealingConfig(), {"L0": 2.8, "A": 0.6, "C": 0.5, "alpha": 0.45}
    Fit(law=law, values=values, objective=0.0, noise=1e-3).save(tmp_path / "fit.json")
    code = (
        "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules));"
        "from launcher.cli import main; main(sys.argv[1:])"
    )

    def lehr(*arguments: str) -> str:
        command = [sys.executable, "-c", code, "law", *arguments]
        env = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    ordinals = np.arange(1, 1001)
    lr_n = 1e-3 * np.minimum(ordinals / 50, np.sqrt(50 / ordinals))
    expected = law.predict(values, last_step(LrCurve(lr_n, 50)))[0]
    keys = ("schedule=inverse_sqrt", "schedule.warmup_steps=50", "train.steps=1000", "optim.lr=1e-3")
    *_, final, torch_came = lehr("predict", "fit.json", *keys).splitlines()
    assert final.startswith(f"final loss {expected:.4f}")
    assert torch_came == "False"
    limits = ("peak_lr=1e-3", "warmup_steps=50", "free_form=false")
    found = lehr("schedule", "fit.json", "--steps", "1000", *(f"--constraint={limit}" for limit in limits))
    (row,) = (line for line in found.splitlines() if "inverse_sqrt" in line)
    assert f"{expected:.4f}" in row
    assert "cosine" in found
    higher = lehr(
        "schedule", "fit.json", "--steps", "1000", *(f"--constraint={limit}" for limit in (*limits, "min_lr=5e-4"))
    )
    assert "cosine" in higher
    assert "inverse_sqrt" not in higher  # it goes below min_lr
