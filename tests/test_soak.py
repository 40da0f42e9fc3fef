"""The soak, short: every kind of fault once, from a seed; the long one is `make soak`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KINDS = (
    *("kill_rank", "kill_all", "kill_rank_in_save", "kill_all_in_save", "stop", "hang", "pause"),
    *("truncated_file", "flipped_bit", "missing_file", "gradient not finite", "layout changed"),
)  # and full_disk, where a small tmpfs can be mounted


@pytest.mark.slow
def test_a_run_comes_through_every_kind_of_fault_as_if_there_had_been_none() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--faults", "12", "--layout-faults", "4"]
    done = subprocess.run([*command, "--seed", "3"], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "to the bit" in done.stdout
    for kind in KINDS:
        assert kind in done.stdout, kind
