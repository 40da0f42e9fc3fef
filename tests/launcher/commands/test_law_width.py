"""`lehr law width`: full matrices from checkpoints of any layout."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import lehr
from safetensors.numpy import load_file


@pytest.fixture
def config(tmp_path: Path) -> Path:
    sys.path.append(str(Path(__file__).parents[2] / "data"))
    from made_shards import write_source

    rng = np.random.default_rng(0)
    documents = [[*(rng.zipf(1.3, 60) % 199 + 1).tolist(), 0] for _ in range(60)]
    write_source(tmp_path / "shards", "text", train=[documents[:50]], held_out=[documents[50:]], vocab_size=200)
    plain = {
        "run": {"name": "try", "folder": str(tmp_path / "runs"), "seed": 1},
        "data": {"shards": str(tmp_path / "shards")},
        "model": {"num_layers": 1, "hidden_size": 32, "num_heads": 4, "ffn_size": 48},
        "optim": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.1},
        "schedule": {"name": "constant"},
        "train": {"steps": 2, "seq_length": 32, "micro_batch_size": 2, "global_batch_size": 2},
    }
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(plain))
    return path


@pytest.mark.slow
def test_widths_are_compared_whatever_the_layout(config: Path) -> None:
    runs = config.parent / "runs"
    for name, overrides in (("sharded", ["parallel.tensor=2"]), ("full", []), ("wide", ["model.hidden_size=128"])):
        done = lehr("train", config, f"run.name={name}", *overrides)
        assert done.returncode == 0, done.stderr
    same = lehr("law", "width", runs / "full", runs / "sharded")
    assert same.returncode == 0, same.stderr
    assert "geometric mean of the ratios: 1.000" in same.stdout
    (file,) = (runs / "full/checkpoints/step-00000002").glob("*.safetensors")
    expected = np.linalg.svd(load_file(file)["model.layers.0.attention.q.weight"], compute_uv=False)[0]
    shown = re.search(r"attention\.q\.weight\D+([\d.]+)", same.stdout)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(expected, rel=1e-3)
    wider = lehr("law", "width", runs / "full", runs / "wide")
    assert "by sqrt(lr / weight_decay) width^0.75 of the configs: 2.828" in wider.stdout
    refused = lehr("law", "width", runs / "full", runs / "none")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "has no checkpoint" in refused.stderr
