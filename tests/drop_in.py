"""A new method is one file: the tests drop one into a copy of the rooms, and run the contract tests there unchanged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def copy_rooms(folder: Path, *rooms: str, files: Mapping[str, str]) -> Path:
    """Copies rooms and folders of tests, with the tests' own modules and settings, and adds `files` (path -> text)."""
    for room in rooms:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir(exist_ok=True)
    for path in [*(ROOT / "tests").glob("*.py"), ROOT / "pyproject.toml"]:
        shutil.copy(path, folder / path.relative_to(ROOT))
    for path, text in files.items():
        (folder / path).write_text(text.lstrip(), encoding="utf-8")
    return folder


def run_contracts(folder: Path, tests: Sequence[str], *, keyword: str) -> tuple[int, dict[str, list[str]], str]:
    """Runs the tests whose names have `keyword`. Returns pytest's exit code, the tests by outcome, and the output.

    An outcome is PASSED or FAILED; a test is `test_name[parameters]`.
    """
    command = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "-m", "not slow", "-k", keyword, *tests]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    found: dict[str, list[str]] = {"PASSED": [], "FAILED": []}
    for test, outcome in re.findall(r"^\S+::(test_\w+(?:\[.*\])?) (PASSED|FAILED)", done.stdout, re.MULTILINE):
        found[outcome].append(test)
    return done.returncode, found, done.stdout + done.stderr
