"""What DeepSpeed is kept from doing."""

from __future__ import annotations

import os
from pathlib import Path

from parallel_runs import Trial, on_a_rank
from processes import run_ranks


def train_with_extensions_in(folder: str) -> list[str]:
    os.environ["TORCH_EXTENSIONS_DIR"] = folder
    os.environ["PATH"] = ""  # no compiler
    on_a_rank(Trial(parallel={"zero": 2}, steps=1))
    return os.listdir(folder)


def test_nothing_is_compiled(tmp_path: Path) -> None:
    """A rank that was killed while it built an extension would leave a lock, and every later run would wait for it."""
    assert run_ranks(2, train_with_extensions_in, str(tmp_path)) == [[], []]
