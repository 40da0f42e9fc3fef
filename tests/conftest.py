"""One thread a process, set before torch is imported: tests run side by side, rounding must not depend on cores."""

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

LOSS_CURVES = Path(__file__).parents[2] / "shared" / "data" / "loss_curves"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options stand here, not beside their fixtures: pytest reads this file before the command line, others after."""
    parser.addoption(
        "--loss-curves", type=Path, default=LOSS_CURVES, help="folder of the public loss curves (25M/, 100M/)"
    )
