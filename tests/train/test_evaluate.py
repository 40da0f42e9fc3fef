"""An evaluation's loss and what it costs, whatever a round holds; the model's loss is known in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from made_shards import documents, write_source
from processes import run_ranks

from data.batches.held_out import HeldOutLoader
from data.config import DataConfig
from parallel.chunk import MicroBatch
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, make_mesh
from train.evaluate import evaluate, micro_batches_per_round

SEQ_LENGTH = 16


class Counting:
    """A token's nll is its number over 100; counts the rows it is given."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.micro_batches = 0

    def evaluate(self, micro_batches: Sequence[MicroBatch]) -> float:
        self.micro_batches += len(micro_batches)
        nll = sum(((batch.weights_BT > 0) * batch.targets_BT).double().sum() for batch in micro_batches) / 100
        total = torch.as_tensor(nll)
        torch.distributed.all_reduce(total, group=self._mesh.data.group)
        return float(total)


def evaluated(data: dict[str, Any], micro_batch_size: int, micro_batches: int, max_windows: int) -> tuple[Any, int]:
    mesh = make_mesh(ParallelConfig(), timeout_seconds=60)
    engine = Counting(mesh)
    held_out = HeldOutLoader(DataConfig.model_validate(data), seq_length=SEQ_LENGTH, max_sequences=max_windows)
    evaluation = evaluate(
        engine,  # type: ignore[arg-type]
        held_out,
        mesh,
        micro_batch_size=micro_batch_size,
        micro_batches=micro_batches,
        make_mask=lambda documents_BT: None,
    )
    assert evaluation is not None
    return {name: (source.loss, source.tokens) for name, source in evaluation.sources.items()}, engine.micro_batches


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, list[int]]]:
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(3)
    streams = {}
    for name, tokens in (("alpha", 2000), ("beta", 83)):
        held_out = documents(rng, tokens=tokens)
        write_source(folder, name, train=[documents(rng, tokens=500)], held_out=[held_out])
        streams[name] = [token for document in held_out for token in document]
    return {"shards": str(folder)}, streams


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("max_windows", "micro_batches", "taken"), [(10, 64, 10), (10, 2, 10), (1000, 64, 126)])
def test_the_loss_is_that_of_the_windows_and_no_round_is_filled_for_nothing(
    corpus: tuple[dict[str, Any], dict[str, list[int]]], ranks: int, max_windows: int, micro_batches: int, taken: int
) -> None:
    """Micro-batches have 2 rows over all ranks: 10 sequences are 5 of them, and not the 64 of a step."""
    data, streams = corpus
    found = run_ranks(ranks, evaluated, data, 2 // ranks, micro_batches, max_windows)
    for losses, given in found:
        for name, stream in streams.items():
            targets = stream[1 : 1 + SEQ_LENGTH * max_windows]
            assert losses[name] == (pytest.approx(sum(targets) / 100 / len(targets), rel=1e-12), len(targets))
        assert given == taken


@pytest.mark.parametrize(
    ("needed", "most", "stages", "round_of"),
    [(3, 16, 1, 3), (3, 16, 4, 4), (40, 16, 4, 16), (5, 6, 4, 6), (0, 4, 2, 1)],
)
def test_a_round_is_of_whole_turns_of_the_pipeline(needed: int, most: int, stages: int, round_of: int) -> None:
    assert micro_batches_per_round(needed, most, stages=stages) == round_of
