"""The tests that need a GPU: `pytest -m gpu`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from gpu.context import ROOT, Context, Row
from gpu.processes import run


def measure(context: Context) -> Iterator[Row]:
    """Yields pytest's last line; in the tiny form the tests are only collected."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    options = ["--no-header", "-p", "no:cacheprovider", "-m", "gpu", *(["--collect-only"] if context.tiny else [])]
    ended = run([sys.executable, "-m", "pytest", *options, *files], context.folder / "tests.log", context.seconds_left)
    last = re.findall(r"^.*(?:passed|failed|skipped|collected|error).*$", ended.tail(5000), re.MULTILINE)
    row: Row = {"case": "pytest -m gpu", "code": ended.code, "result": last[-1].strip("= ") if last else ""}
    yield row if ended.code == 0 else {**row, "outcome": f"ended with {ended.code}", "output": ended.tail(1500)}
