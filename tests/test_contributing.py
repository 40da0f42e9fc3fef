"""The worked example of CONTRIBUTING.md: dropped in as it stands, it is found and passes the contract tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_worked_example_is_all_that_a_new_schedule_takes(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    path, code = re.search(r"The whole change is `([a-z_/]+\.py)`:\n```python\n(.*?)```", text, re.DOTALL).groups()  # type: ignore[union-attr]
    for room in ("optim", "settings", "tests/optim"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / path).write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/optim/test_schedules.py"]
    done = subprocess.run([*command, "-k", "inverse_sqrt"], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 3, done.stdout  # the contract tests ran on it
    ruff = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(tmp_path / path)]
    assert subprocess.run(ruff, capture_output=True).returncode == 0
