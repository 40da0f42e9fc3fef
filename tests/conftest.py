"""Settings of every test process, and the options of the test run.

torch gets one thread a process, which must be set before torch is imported: tests run side by side, and rounding must
not depend on the number of cores.
"""

import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")
# Images of containers set it; then every Python that a test starts would compile all of lehr again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# What lehr keeps between runs, such as the CPU's measured peak, is kept between test runs too, but not for the user.
os.environ["XDG_CACHE_HOME"] = str(Path(tempfile.gettempdir()) / f"lehr-tests-{os.getuid()}")


# A shell that starts the tests in the background lets them ignore SIGINT, and every process that they start would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options. They stand here and not beside their fixtures, since pytest reads only this file in time."""
    parser.addoption(
        "--loss-curves",
        type=Path,
        metavar="DIR",
        help="folder of the public loss curves (25M/, 100M/); without it the tests that need them are skipped",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Hides the GPUs before torch is imported, so that the tests are the same on every machine.

    Only `pytest -m gpu` shows them: CUDA reads the variable once in a process, so a session sees them or does not.
    """
    if not config.getoption("markexpr").startswith("gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first, so that no worker is alone with one of them at the end.

    A slow test counts as thirty others.
    """
    weights: Counter[Path] = Counter()
    for item in items:
        weights[item.path] += 30 if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: (-weights[item.path], str(item.path)))
