"""Before a step all ranks agree on the hash and tokens of the global batch, and on a stop, in one message."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from made_shards import documents, write_source
from processes import run_ranks

from data.batches.loader import Batch, Loader, batch_hash
from data.config import DataConfig
from parallel.config import ParallelConfig
from parallel.mesh import make_mesh
from train.step_agreement import StepAgreement, agree_on_step

ROWS, SEQ_LENGTH, STEPS = 8, 16, 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(3)
    for name in ("alpha", "beta"):
        write_source(folder, name, train=[documents(rng, tokens=2000, vocab_size=256, longest=12)], vocab_size=256)
    return {"shards": str(folder), "mixture": {"alpha": 0.7, "beta": 0.3}}


def open_loader(data: dict[str, Any], **place: Any) -> Loader:
    return Loader(DataConfig.model_validate(data), seed=5, seq_length=SEQ_LENGTH, rows_per_step_global=ROWS, **place)


def agreements_on_a_rank(
    data: dict[str, Any], parallel: dict[str, Any], workers: int, stops: list[int | None]
) -> list[tuple[StepAgreement, int]]:
    """Returns each step's agreement and how many messages it took. `stops`: the rank that is to stop, by step."""
    mesh = make_mesh(ParallelConfig(**parallel), timeout_seconds=60)
    found = []
    with open_loader(data, data_rank=mesh.data.rank, data_size=mesh.data.size, workers=workers) as loader:
        for step, rank in enumerate(stops):
            rows = loader.batch(step)
            with torch.profiler.profile() as profile:
                agreement = agree_on_step(rows, mesh, stop_requested=rank == mesh.rank)
            messages = sum(event.name.startswith("gloo:") for event in profile.events())
            found.append((agreement, messages))
    return found


@pytest.mark.slow
def test_one_message_carries_tokens_and_a_stop_to_all_ranks(data: dict[str, Any]) -> None:
    """One rank counts the tokens of all that hold the same rows; any rank can stop all."""
    with open_loader(data) as loader:
        tokens = [int(loader.batch(step).loss_mask.sum()) for step in range(3)]
    parallel = {"tensor": 2, "pipeline": 2}
    for found in run_ranks(4, agreements_on_a_rank, data, parallel, 1, [None, 3, 0]):
        assert [agreement.tokens_global for agreement, _ in found] == tokens
        assert [agreement.stop for agreement, _ in found] == [False, True, True]
        assert [messages for _, messages in found] == [1, 1, 1]


def hash_of(rows: Batch) -> str:
    """Hashes a global batch that one process holds."""
    return np.array([batch_hash(rows, first_row=0)], dtype=np.int64).view(np.uint64)[0].item().to_bytes(8, "big").hex()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "parallel", "workers"),
    [(1, {}, 1), (1, {}, 3), (2, {"data": 2}, 1), (2, {"tensor": 2}, 1), (4, {"data": 4, "zero": 0}, 2)],
)
def test_every_layout_has_the_hash_of_the_global_batch(
    data: dict[str, Any], ranks: int, parallel: dict[str, Any], workers: int
) -> None:
    with open_loader(data) as loader:
        expected = [hash_of(loader.batch(step)) for step in range(STEPS)]
    assert len(set(expected)) == STEPS
    for found in run_ranks(ranks, agreements_on_a_rank, data, parallel, workers, [None] * STEPS):
        assert [agreement.batch_hash for agreement, _ in found] == expected


def test_any_other_batch_has_another_hash(data: dict[str, Any]) -> None:
    with open_loader(data) as loader:
        rows = loader.batch(0)
    found = {hash_of(rows)}
    swapped = [1, 0, *range(2, ROWS)]
    found.add(hash_of(Batch(**{field.name: getattr(rows, field.name)[swapped] for field in dataclasses.fields(rows)})))
    for field in ("tokens", "targets", "samples", "sources"):
        array = getattr(rows, field).copy()
        array.reshape(-1)[3] += 1
        found.add(hash_of(dataclasses.replace(rows, **{field: array})))
    assert len(found) == 6
