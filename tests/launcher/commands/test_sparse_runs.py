"""A run that prunes, as a user sees it: resumed in another layout, verified, exported, and its mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from processes import lehr
from safetensors.torch import load_file
from small_runs import make_shards, trajectory, write_config

pytestmark = pytest.mark.slow
SPARSE = {"name": "sparsity", "target": 0.5, "interval_steps": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse")
    optim = {"transforms": [SPARSE], "clip_grad_norm": 0.5}
    config = write_config(folder, make_shards(folder), optim=optim)
    done = lehr("train", config)
    assert done.returncode == 0, done.stderr
    assert "15,360 weights are prunable" in done.stdout
    assert "the run is not faster" in done.stdout
    assert "the average-parameter law expects the loss of a dense model of" in done.stdout
    return config


def test_it_goes_on_in_the_middle_of_pruning_in_another_layout(trained: Path) -> None:
    runs = trained.parent / "runs"
    for name, layout in (("tensor", ["parallel.tensor=2"]), ("zero3", ["parallel.data=2", "parallel.zero=3"])):
        shutil.copytree(runs / "try", runs / name)
        for step in (8, 12):
            shutil.rmtree(runs / name / f"checkpoints/step-{step:08d}")
        (runs / name / "checkpoints/latest").write_text("step-00000004\n")
        done = lehr("train", trained, f"run.name={name}", *layout)
        assert done.returncode == 0, done.stderr
        for one, other in zip(trajectory(runs / "try"), trajectory(runs / name), strict=True):
            assert one.keys() == other.keys()
            for key, value in one.items():
                expected = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
                assert other[key] == expected, (one["step"], key)


def test_metrics_count_what_is_left(trained: Path) -> None:
    steps = [line for line in trajectory(trained.parent / "runs/try") if "loss" in line]
    dense = steps[0]["parameters"]
    assert steps[-1]["parameters"] == dense - 7680
    assert steps[-1]["average_parameters"] == pytest.approx(sum(line["parameters"] for line in steps) / len(steps))
    per_step = [b["flops"] - a["flops"] for a, b in zip([{"flops": 0}, *steps[:-1]], steps, strict=True)]
    assert per_step[0] - per_step[-1] == pytest.approx(6 * 7680 * 8 * 32)  # of 8 rows of 32 tokens
    assert steps[-1]["optim/sparsity"] == 0.5
    shares = [value for key, value in steps[-1].items() if key.startswith("optim/sparsity/")]
    assert len(shares) == 14
    assert 0 < min(shares) < max(shares) < 1


def test_zeros_are_verified(trained: Path) -> None:
    run = trained.parent / "runs/try"
    verified = lehr("checkpoint", "verify", run)
    assert verified.returncode == 0
    assert "step-00000012: complete, 7,680 of 15,360 prunable weights are zero (50.00%)" in verified.stdout
    latest = run / "checkpoints/step-00000012"
    (file,) = latest.glob("*.safetensors")
    tensors = load_file(file)
    masks = {name: tensor for name, tensor in tensors.items() if name.endswith(".pruned")}
    assert all(mask.dtype == torch.bool for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == 7680


def test_an_export_keeps_the_zeros(tmp_path: Path, text_shards: Path) -> None:
    """The shards of `trained` have no real tokenizer, which an export writes too."""
    from huggingface_runs import LLAMA
    from huggingface_runs import write_config as write_text_config

    config = write_text_config(tmp_path, text_shards, model=LLAMA)
    sparse = f"optim.transforms={json.dumps([{**SPARSE, 'start': 0.1, 'end': 0.2, 'interval_steps': 1}])}"
    done = lehr("train", config, sparse)
    assert done.returncode == 0, done.stderr
    (verified,) = lehr("checkpoint", "verify", tmp_path / "runs/try").stdout.splitlines()[-1:]
    assert "prunable weights are zero (50.00%)" in verified
    exported = lehr("export", tmp_path / "runs/try", tmp_path / "hf")
    assert exported.returncode == 0, exported.stderr
    weights = load_file(tmp_path / "hf/model.safetensors")
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert f"{zeros:,} of {2 * zeros:,} prunable" in verified


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.transforms.0.target=0.6"], "optim.transforms.0.target: 0.5 there, 0.6 here"),
        (["run.name=new", "optim.transforms.0.target=1"], "optim.transforms.0.target = 1"),
        (["run.name=new", "optim.transforms.0.end=0.1"], "start = 0.25 must be less than end = 0.1"),
        (["run.name=new", "optim.transforms.0.parameters=nothing"], "matches no parameter of the model"),
        (
            ["run.name=new", "optim.transforms.0.structure=3-of-7", f"optim.transforms.0.target={4 / 7}"],
            "multiple of 7",
        ),
        (
            ["run.name=new", "optim.transforms.0.structure=2-of-4", "parallel.data=2", "parallel.zero=2"],
            "optim.transforms (sparsity), structure = 2-of-4, needs full matrices; use parallel.zero 0 or 1",
        ),
    ],
)
def test_a_mistake_is_refused_before_the_start(trained: Path, overrides: list[str], message: str) -> None:
    done = lehr("train", trained, *overrides)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (trained.parent / "runs/new").exists()
    assert json.loads((trained.parent / "runs/try/checkpoints/step-00000012/manifest.json").read_text())["step"] == 12
