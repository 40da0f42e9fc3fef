"""Small runs for the tests of the commands: a config with two sources and two layers, and a trained run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_runs import LLAMA, done, write_config, write_text_shards
from made_shards import write_source


def document(rng: np.random.Generator) -> list[int]:
    return [*(rng.zipf(1.3, 60) % 199 + 1).tolist(), 0]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "shards"
    rng = np.random.default_rng(0)
    for name in ("alpha", "beta"):
        train, held_out = ([document(rng) for _ in range(number)] for number in (300, 40))
        write_source(folder, name, train=[train], held_out=[held_out], vocab_size=200)
    return folder


@pytest.fixture
def config(tmp_path: Path, shards: Path) -> Path:
    plain: dict[str, Any] = {
        "run": {"name": "try", "folder": str(tmp_path / "runs"), "seed": 1},
        "data": {"shards": str(shards)},
        "model": {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 48},
        "optim": {"name": "adamw", "lr": 3e-3},
        "schedule": {"name": "cosine", "warmup_steps": 2, "min_lr": 3e-4},
        "train": {"steps": 8, "seq_length": 32, "micro_batch_size": 2, "global_batch_size": 8},
        "evaluate": {"every_steps": 4, "max_windows": 8},
        "checkpoint": {"every_steps": 4},
    }
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(plain))
    return path


@pytest.fixture(scope="session")
def text_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_shards(tmp_path_factory.mktemp("corpus") / "shards")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, text_shards: Path) -> Path:
    """A run folder, which no test may change."""
    folder = tmp_path_factory.mktemp("trained")
    config = write_config(
        folder, text_shards, model=LLAMA, evaluate={"max_windows": 1000}, checkpoint={"every_steps": 0}
    )
    done("train", config, "train.steps=30", "parallel.tensor=2", "parallel.sequence=true")
    return folder / "runs/try"
