"""The conditions for a rank to be a forked process, and the command of a rank that is a new program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.processes.start_method import lehr_command


def test_threads_that_were_joined_do_not_count() -> None:
    program = """
from concurrent.futures import ThreadPoolExecutor
from launcher.processes.start_method import is_single_threaded
for _ in range(200):
    with ThreadPoolExecutor() as pool:
        list(pool.map(len, ["file"] * 8))
    assert is_single_threaded()
with ThreadPoolExecutor() as pool:
    assert not pool.submit(is_single_threaded).result()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_ranks_find_a_source_tree_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    assert lehr_command("train") == [sys.executable, "-m", "launcher", "train"]
    monkeypatch.chdir(tmp_path)
    assert lehr_command("train") == [sys.executable, "-P", "-m", "launcher", "train"]
