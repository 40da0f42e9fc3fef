"""`make proof` in small: predictions come before the predicted runs, and finished runs are not trained again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_shards import write_source

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    documents = [[*(rng.zipf(1.3, 60) % 199 + 1).tolist(), 0] for _ in range(440)]
    write_source(tmp_path / "shards", "text", train=[documents[:400]], held_out=[documents[400:]], vocab_size=200)
    plain = {
        "run": {"name": "small", "seed": 1},
        "data": {"shards": str(tmp_path / "shards"), "document_masking": False},
        "model": {"num_layers": 1, "hidden_size": 32, "num_heads": 2, "ffn_size": 48, "tied_embeddings": True},
        "optim": {"name": "adamw", "lr": 3e-3},
        "schedule": {"name": "cosine", "warmup_steps": 6, "min_lr": 3e-4},
        "train": {"steps": 60, "seq_length": 32, "micro_batch_size": 4, "global_batch_size": 4},
        "evaluate": {"every_steps": 3, "max_windows": 16},
        "checkpoint": {"every_steps": 0},
    }
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(plain))
    return path


def prove(config: Path, *, seeds: int) -> subprocess.CompletedProcess[str]:
    folder = config.parent / "runs"
    command = [sys.executable, "benchmarks/laws_on_own_runs.py", str(config), "--folder", str(folder)]
    return subprocess.run([*command, "--seeds", str(seeds)], cwd=ROOT, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_predictions_come_first_and_finished_runs_stay(config: Path) -> None:
    runs = config.parent / "runs"
    done = prove(config, seeds=2)
    assert done.returncode == 0, done.stderr
    predictions = json.loads((runs / "predictions.json").read_text())
    began = {path.parent.name: path.stat().st_mtime for path in runs.glob("*/config.yaml")}
    written = (runs / "predictions.json").stat().st_mtime
    fitted, predicted = ("constant-1", "cosine-1"), ("wsd-1", "linear-1", "rewarmed-1", "chosen-1", "chosen-2")
    assert set(began) == {*fitted, *predicted, "cosine-2"}
    assert all(began[name] < written for name in fitted)
    assert all(began[name] > written for name in predicted)
    for law in ("relaxation", "annealing", "multi_power"):
        low, high = predictions["final"]["wsd"][law][1:]
        assert low <= predictions["final"]["wsd"][law][0] <= high
    for name in ("wsd", "linear", "rewarmed", "chosen"):
        assert f"| {name} | " in done.stdout
    assert (runs / "laws_forecast.png").stat().st_size > 10_000

    before = {path: path.read_bytes() for path in [*runs.glob("*/metrics.jsonl"), runs / "predictions.json"]}
    again = prove(config, seeds=2)
    assert again.returncode == 0, again.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert again.stdout.splitlines()[-3:] == done.stdout.splitlines()[-3:]

    (runs / "predictions.json").unlink()
    late = prove(config, seeds=2)
    assert late.returncode != 0
    assert "wsd-1" in late.stderr
    assert "began before predictions.json was written" in late.stderr
