"""The public loss curves stand outside the repository: `--loss-curves DIR` says where."""

from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[3] / "shared" / "data" / "loss_curves"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--loss-curves", type=Path, default=BESIDE, help="folder of the public loss curves (25M/, 100M/)")


@pytest.fixture(scope="session")
def loss_curves(request: pytest.FixtureRequest) -> Path:
    """The folder of the public curves; skips, and says so, where there is none."""
    # Where all tests run together this file is read after the command line, and the option has no value.
    folder: Path = request.config.getoption("--loss-curves", default=None) or BESIDE
    if not (folder / "25M" / "cosine_24000.csv").is_file():
        pytest.skip(f"no public loss curves at {folder}: pass --loss-curves DIR")
    return folder
