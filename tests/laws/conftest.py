"""The public loss curves stand outside the repository: `--loss-curves DIR` says where."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def loss_curves(request: pytest.FixtureRequest) -> Path:
    """The folder of the public curves; skips, and says so, where there is none."""
    folder: Path = request.config.getoption("--loss-curves")
    if not (folder / "25M" / "cosine_24000.csv").is_file():
        pytest.skip(f"no public loss curves at {folder}: pass --loss-curves DIR")
    return folder
