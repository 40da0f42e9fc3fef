"""A tied head under a pipeline is the first stage's embedding to the bit, whatever rounds in between."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from parallel_runs import Trial, example, global_batches, local_micro_batches, ranks_of, start
from processes import run_ranks
from torch import Tensor

from optim.optimizer import OPTIMIZERS
from parallel.build import TrainableModel
from parallel.config import ParallelConfig
from parallel.mesh import make_mesh

NAMES = OPTIMIZERS.names()
# Four data ranks: sums over them round by the order in which they are taken.
LAYOUTS: dict[str, dict[str, Any]] = {
    "zero0": {"pipeline": 2, "data": 4, "zero": 0},
    "zero1": {"pipeline": 2, "data": 4, "zero": 1},
    "zero1-offload": {"pipeline": 2, "data": 2, "zero": 1, "offload": "optimizer"},
    "tensor2-interleaved": {"pipeline": 2, "tensor": 2, "virtual_stages": 2},
}
STEPS = 10


def embedding(parts: TrainableModel) -> Tensor | None:
    """A copy of this rank's; it lies on the first chunk of the first stage and on the last chunk of the last one."""
    for stage in parts.chunks:
        for name, parameter in stage.transformer.named_parameters():
            if name == "embedding.weight":
                return parameter.detach().clone()
    return None


def embeddings(parallel: dict[str, Any], precision: str) -> dict[str, list[Tensor | None]]:
    """Returns this rank's embedding by optimizer: after 10 steps, and after a load of that of three steps earlier."""
    mesh = make_mesh(ParallelConfig(**parallel), timeout_seconds=60)
    found: dict[str, list[Tensor | None]] = {}
    for name in NAMES:
        trial = Trial(
            model={"hidden_size": 32, "ffn_size": 48, "tied_embeddings": True},
            parallel=parallel,
            optimizer=example(name),
            compute={"precision": precision},
            micro_batch_size=1,
            all_tokens=True,
        )
        _, parts = start(trial, mesh)
        kept: dict[str, Tensor] = {}
        for number, batch in enumerate(itertools.islice(global_batches(all_tokens=True), STEPS)):
            if number == STEPS - 3:
                kept = {key: part.tensor.clone() for key, part in parts.engine.state(saving=False).items()}
            parts.engine.train_step(local_micro_batches(batch, trial, mesh, parts), lr=trial.optimizer.lr)
        found[name] = [embedding(parts)]
        for key, part in parts.engine.state(saving=False).items():
            part.tensor.copy_(kept[key])
        parts.engine.loaded(optimizer_steps=STEPS - 3)
        found[name].append(embedding(parts))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "precision"),
    [("zero0", "float32"), ("zero1", "bfloat16"), ("zero1-offload", "float32"), ("tensor2-interleaved", "float32")],
)
def test_the_last_stages_copy_is_the_first_stages_weight(layout: str, precision: str) -> None:
    parallel = LAYOUTS[layout]
    by_rank = run_ranks(ranks_of(parallel), embeddings, parallel, precision, timeout=200)
    half = len(by_rank) // 2  # ranks of the first stage come first
    for name in NAMES:
        for first, last in zip(by_rank[:half], by_rank[half:], strict=True):
            for original, copy in zip(first[name], last[name], strict=True):
                assert original is not None
                assert copy is not None
                assert torch.equal(original, copy), (name, float((original - copy).abs().max()))
