"""The same bits again: what `train.deterministic` and the recorded attention kernel are for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import lehr


def train(config: Path, name: str, *overrides: str) -> list[tuple[float, float]]:
    """Returns loss and gradient norm of every step of the run, as often as it took it."""
    done = lehr("train", config, f"run.name={name}", *overrides)
    assert done.returncode == 0, done.stderr
    lines = (config.parent / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [(step["loss"], step["grad_norm"]) for step in map(json.loads, lines) if "loss" in step]


def kernels(config: Path, name: str) -> list[str]:
    record: dict[str, Any] = json.loads((config.parent / "runs" / name / "run.json").read_text())
    return [start["attention_kernel"] for start in record["starts"]]


@pytest.mark.slow
def test_on_a_cpu_the_bits_are_the_same_with_and_without_deterministic(config: Path) -> None:
    plain = train(config, "plain", "train.steps=4")
    assert train(config, "deterministic", "train.steps=4", "train.deterministic=true") == plain


@pytest.mark.slow
def test_auto_keeps_the_attention_kernel_with_which_the_run_began(config: Path) -> None:
    assert len(train(config, "try", "train.steps=4", "train.attention=sdpa")) == 4
    train(config, "try", "train.steps=6")
    train(config, "new", "train.steps=1", "schedule.warmup_steps=0")
    assert kernels(config, "try") == ["sdpa", "sdpa"]
    assert kernels(config, "new") == ["blocked"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", ["false", "true"])
def test_on_a_gpu_two_runs_and_a_resumed_one_have_the_same_bits(config: Path, compiled: str) -> None:
    """At 2,048 tokens a row, where the backward pass of flash attention is not deterministic by default."""
    overrides = (
        *("train.deterministic=true", "train.precision=bfloat16", f"train.compile={compiled}"),
        *("train.seq_length=2048", "train.global_batch_size=4", "model.hidden_size=256", "model.ffn_size=512"),
    )
    once = train(config, "once", *overrides)
    assert train(config, "twice", *overrides) == once
    checkpoints = config.parent / "runs" / "twice" / "checkpoints"
    shutil.rmtree(checkpoints / "step-00000008")
    (checkpoints / "latest").write_text("step-00000004")
    assert train(config, "twice", *overrides) == once
