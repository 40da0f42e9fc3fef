"""The micro-batches of a step are made as they are taken."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_shards import documents, write_source
from parallel_runs import Trial, start
from processes import run_ranks

from data.batches.loader import Loader
from data.config import DataConfig
from model.attention import AttentionMask
from train.micro_batches import MicroBatches
from train.safety.watchdog import Watchdog
from train.step_agreement import agree_on_step
from train.step_batches import DeviceBatch

ROWS, SEQ_LENGTH = 8, 16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(3)
    write_source(folder, "alpha", train=[documents(rng, tokens=2000, vocab_size=256, longest=12)], vocab_size=256)
    return {"shards": str(folder)}


def masks_on_a_rank(data: dict[str, Any], parallel: dict[str, Any]) -> tuple[int, int, int]:
    """Takes a step over 8 micro-batches. Returns the masks made before it, made in all, most alive at once."""
    mesh, parts = start(Trial(parallel=parallel, micro_batch_size=1))
    made: list[weakref.ref[AttentionMask]] = []
    most = 0

    def make_mask(documents_BT: torch.Tensor) -> AttentionMask | None:
        nonlocal most
        mask = AttentionMask.from_documents(documents_BT, kernel="sdpa", dtype=torch.float32)
        assert mask is not None
        made.append(weakref.ref(mask))
        most = max(most, sum(each() is not None for each in made))
        return mask

    config = DataConfig.model_validate(data)
    with Loader(config, seed=5, seq_length=SEQ_LENGTH, rows_per_step_global=ROWS) as loader:
        rows = loader.batch(0)
        tokens = agree_on_step(rows, mesh, stop_requested=False).tokens_global
        batches = MicroBatches(DeviceBatch.of(rows, mesh.device), size=1, tokens_global=tokens, make_mask=make_mask)
        before = len(made)
        parts.engine.train_step(Watchdog(60.0, print).track_progress(batches), lr=1e-3)
    return before, len(made), most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "parallel"),
    [(1, {}), (1, {"zero": 2}), (2, {"pipeline": 2}), (2, {"pipeline": 2, "virtual_stages": 2})],
)
def test_masks_are_made_for_one_micro_batch_after_the_other(
    data: dict[str, Any], ranks: int, parallel: dict[str, Any]
) -> None:
    """Masks are made once for all chunks of a rank, of which the first may be four micro-batches ahead of the last."""
    for before, made, most in run_ranks(ranks, masks_on_a_rank, data, parallel):
        assert before == 0
        assert made == ROWS
        assert most <= (6 if "virtual_stages" in parallel else 2)
