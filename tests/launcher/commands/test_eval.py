"""`lehr eval` against plain torch over the held-out documents, read as bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_runs import (
    LLAMA,
    SEQ_LENGTH,
    checkpoint_model,
    done,
    our_logits,
    write_config,
    write_text_shards,
)
from processes import lehr
from torch import nn

from model.transformer import Transformer
from train.metrics.jsonl import read_metrics

pytestmark = pytest.mark.slow


def plain_loss(model: Transformer, stream: list[int]) -> tuple[float, int]:
    """Returns nats per token, and tokens. It takes the documents of each sequence one by one, so it needs no mask."""
    total, count = 0.0, 0
    for start in range(0, len(stream) - 1, SEQ_LENGTH):
        window = stream[start : start + SEQ_LENGTH + 1]
        tokens, targets = window[:-1], window[1:]
        ends = [place + 1 for place, token in enumerate(tokens) if token == 0]
        for first, last in zip([0, *ends], [*ends, len(tokens)], strict=True):
            if last > first:
                logits_TV = our_logits(model, torch.tensor([tokens[first:last]]))[0]
                wanted_T = torch.tensor(targets[first:last])
                total += float(nn.functional.cross_entropy(logits_TV, wanted_T, reduction="sum"))
                count += last - first
    return total / count, count


def test_the_loss_is_that_of_plain_torch(trained: Path, text_shards: Path) -> None:
    info = json.loads((text_shards / "readme/dataset.json").read_text())["splits"]["held_out"]
    (file,) = info["files"]
    stream = np.fromfile(text_shards / "readme" / file["path"], dtype="<u2").tolist()
    loss, count = plain_loss(checkpoint_model(trained / "checkpoints/step-00000030"), stream)
    assert count == len(stream) - 1
    bits_per_byte = loss / math.log(2) / (info["text_bytes"] / info["tokens"])
    line = [line for line in read_metrics(trained / "metrics.jsonl") if "held_out/loss" in line][-1]
    assert line["held_out/readme/loss"] == pytest.approx(loss, rel=1e-5)
    assert line["held_out/readme/bits_per_byte"] == pytest.approx(bits_per_byte, rel=1e-5)
    printed = lehr("eval", trained)
    assert printed.returncode == 0, printed.stderr
    assert "Warning" not in printed.stderr
    (row,) = [line.split() for line in printed.stdout.replace("│", " ").splitlines() if "readme" in line]
    source, tokens, found, _, found_bits = row
    assert (source, tokens) == ("readme", f"{count:,}")
    assert float(found) == pytest.approx(loss, abs=6e-5)
    assert float(found_bits) == pytest.approx(bits_per_byte, abs=6e-5)


def test_altered_held_out_shards_are_refused(trained: Path, text_shards: Path) -> None:
    path = text_shards / "readme/held_out/00000.ds"
    before = path.read_bytes()
    path.write_bytes(before[:10] + bytes([before[10] ^ 1]) + before[11:])
    try:
        process = lehr("eval", trained)
    finally:
        path.write_bytes(before)
    assert process.returncode == 2, process.stdout + process.stderr
    assert "held_out/00000.ds was altered since the shards were built" in process.stderr
    assert lehr("eval", trained).returncode == 0


def test_a_path_that_is_no_run() -> None:
    process = lehr("eval", "/nowhere/run")
    assert process.returncode == 2
    assert process.stderr.startswith("error: /nowhere/run is no run folder")


def test_without_held_out_documents_training_works_and_eval_is_refused(tmp_path: Path) -> None:
    shards = write_text_shards(tmp_path / "shards", held_out=False)
    done("train", write_config(tmp_path, shards, model=LLAMA), "train.steps=2")
    assert (tmp_path / "runs/try/checkpoints/latest").read_text() == "step-00000002\n"
    process = lehr("eval", tmp_path / "runs/try")
    assert process.returncode == 2, process.stderr
    assert "has held-out tokens that count" in process.stderr
