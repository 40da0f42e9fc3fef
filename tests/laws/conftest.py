"""The public loss curves, which are no part of the repository: `pytest --loss-curves=DIR` names their folder."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def loss_curves(request: pytest.FixtureRequest) -> Path:
    """The folder of the public loss curves. The test is skipped without `--loss-curves`, and fails if it is wrong."""
    folder: Path | None = request.config.getoption("--loss-curves")
    if folder is None:
        pytest.skip("needs the public loss curves: pass --loss-curves=DIR (or make test LOSS_CURVES=DIR)")
    if not (folder / "25M" / "cosine_24000.csv").is_file():
        pytest.fail(f"--loss-curves {folder}: there is no {folder / '25M' / 'cosine_24000.csv'}")
    return folder
