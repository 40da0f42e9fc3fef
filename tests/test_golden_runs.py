"""Numbers that no refactoring may change: bytes of shards, the order of data, losses of small runs.

`golden/runs.json` was recorded once. Hashes of shards and batches are compared exactly. Losses and gradient norms are
compared to 1e-6, because the kernels of CPUs differ between processors. A change of numerics that is meant records the
file anew, in a commit that says why:

    python tests/test_golden_runs.py
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))
from processes import lehr

GOLDEN = Path(__file__).parent / "golden" / "runs.json"
STOP_WORDS = [
    "the",
    "be",
    "to",
    "of",
    "and",
    "that",
    "have",
    "with",
    "in",
    "a",
    "is",
    "it",
    "for",
    "on",
    "as",
    "are",
    "this",
    "was",
    "at",
    "by",
]
RUNS: dict[str, list[str]] = {
    "one process, AdamW": [],
    "tensor 2, sequence, Conda": ["parallel.tensor=2", "parallel.sequence=true", "optim.name=conda"],
    "data 2, ZeRO 1, Muon": ["parallel.data=2", "parallel.zero=1", "optim.name=muon"],
    "pipeline 2, recomputed, LayerNorm Scaling": [
        "parallel.pipeline=2",
        "train.recompute=selective",
        "model.norm_scaling=layernorm_scaling",
        "schedule={name: wsd, warmup_steps: 2, decay_steps: 3, min_lr: 3.0e-4}",
    ],
}


def write_text(folder: Path) -> None:
    """Prose of invented words and code, some of it twice or nearly so; the same on every machine."""
    draw = random.Random(0)
    words = ["".join(draw.choice("aeiourtnslk") for _ in range(draw.randint(2, 9))) for _ in range(500)]
    documents: list[str] = []
    for number in range(240):
        sentences = []
        for _ in range(draw.randint(3, 12)):
            chosen = [draw.choice(STOP_WORDS if draw.random() < 0.4 else words) for _ in range(draw.randint(5, 14))]
            sentences.append(" ".join(chosen).capitalize() + ".")
        documents.append("\n".join(sentences))
        if number % 20 == 0:
            documents.append(documents[-1])  # an exact copy
        if number % 30 == 0:
            documents.append(documents[-1] + " One sentence more.")  # a near copy
    for name, part in (("alpha", documents[::2]), ("beta", documents[1::2])):
        lines = (json.dumps({"text": text}) for text in part)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def write_config(folder: Path) -> Path:
    """A run of six steps on shards that are built from the text in `folder`."""
    sources = {name: {"name": "jsonl", "paths": [str(folder / f"{name}.jsonl")]} for name in ("alpha", "beta")}
    plain: dict[str, Any] = {
        "run": {"name": "golden", "folder": str(folder / "runs"), "seed": 3},
        "data": {
            "shards": str(folder / "shards"),
            "sources": sources,
            "filters": [{"name": "gopher_quality", "min_words": 30}, "gopher_repetition"],
            "deduplicate": {"exact": True, "minhash": True},
            "tokenizer": {"vocab_size": 512},
            "held_out_fraction": 0.1,
            "mixture": {"alpha": 2, "beta": 1},
            "workers": 2,
        },
        "model": {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "ffn_size": 48},
        "optim": {"name": "adamw", "lr": 3e-3},
        "schedule": {"name": "cosine", "warmup_steps": 2, "min_lr": 3e-4},
        "train": {"steps": 6, "seq_length": 64, "micro_batch_size": 2, "global_batch_size": 8},
        "evaluate": {"every_steps": 3, "max_windows": 8},
        "checkpoint": {"every_steps": 0},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(plain))
    return path


def build(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of the shards but `dataset.json` and the report, which name paths and versions."""
    write_text(folder)
    done = lehr("data", "build", write_config(folder))
    assert done.returncode == 0, done.stderr
    shards = folder / "shards"
    return {
        str(path.relative_to(shards)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(shards.rglob("*"))
        if path.is_file() and (path.name == "tokenizer.json" or path.suffix in (".ds", ".index", ".loss"))
    }


def train(folder: Path, name: str) -> list[dict[str, Any]]:
    """Returns what a run writes of each step, but for what depends on time."""
    run = f"run-{list(RUNS).index(name)}"
    done = lehr("train", folder / "config.yaml", f"run.name={run}", *RUNS[name])
    assert done.returncode == 0, done.stderr
    lines = (folder / "runs" / run / "metrics.jsonl").read_text().splitlines()
    kept = ("step", "batch_hash", "loss", "lr", "grad_norm", "held_out")
    return [{key: line[key] for key in line if key.startswith(kept)} for line in map(json.loads, lines)]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("golden")
    return folder, build(folder)


@pytest.mark.slow
def test_the_same_text_gives_the_same_shards(golden: dict[str, Any], built: tuple[Path, dict[str, str]]) -> None:
    assert len(golden["shards"]) >= 9
    assert built[1] == golden["shards"]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_same_config_gives_the_same_losses(
    golden: dict[str, Any], built: tuple[Path, dict[str, str]], name: str
) -> None:
    lines, recorded = train(built[0], name), golden["runs"][name]
    assert [set(line) for line in lines] == [set(line) for line in recorded]
    for line, expected in zip(lines, recorded, strict=True):
        assert line.pop("batch_hash", None) == expected.pop("batch_hash", None)
        assert line == pytest.approx(expected, rel=1e-6)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        shards = build(Path(scratch))
        record = {"shards": shards, "runs": {name: train(Path(scratch), name) for name in RUNS}}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")
