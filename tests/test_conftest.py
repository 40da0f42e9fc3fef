"""A GPU is hidden from all tests but those of `pytest -m gpu`, on every worker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import os, pytest

def test_hidden():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""

@pytest.mark.gpu
def test_shown():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["-k", "hidden"], ["-m", "not slow", "-k", "hidden", "-n", "1"], ["-m", "gpu"], ["-m", "not gpu"]],
    ids=" ".join,
)
def test_gpus_are_hidden_unless_their_tests_are_chosen(arguments: list[str], tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n    slow\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, "test_some.py"]
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=100)
    assert "1 passed" in done.stdout, done.stdout
    assert done.returncode == 0
