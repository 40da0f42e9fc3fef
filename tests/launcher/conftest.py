"""One run, trained once a session on two tensor ranks, that several commands look into."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_runs import LLAMA, done, write_config, write_text_shards


@pytest.fixture(scope="session")
def text_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_shards(tmp_path_factory.mktemp("corpus") / "shards")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, text_shards: Path) -> Path:
    """A run folder; do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(
        folder, text_shards, model=LLAMA, evaluate={"max_windows": 1000}, checkpoint={"every_steps": 0}
    )
    done("train", config, "train.steps=30", "parallel.tensor=2", "parallel.sequence=true")
    return folder / "runs/try"
