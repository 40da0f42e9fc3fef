"""A short soak with every kind of fault once, from a fixed seed. `make soak` runs the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KINDS = (
    *("kill_rank", "kill_all", "kill_rank_in_save", "kill_all_in_save", "stop", "hang", "pause"),
    *("truncated_file", "flipped_bit", "missing_file", "gradient not finite", "layout changed"),
)  # full_disk is inflicted too where a small tmpfs can be mounted


@pytest.mark.slow
def test_a_run_under_every_kind_of_fault_equals_the_unbroken_run() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--faults", "12", "--layout-faults", "4"]
    done = subprocess.run([*command, "--seed", "3"], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "to the bit" in done.stdout
    for kind in KINDS:
        assert kind in done.stdout, kind
