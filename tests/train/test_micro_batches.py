"""A global batch: its hash, what all ranks are told with it, and micro-batches that are made as they are taken."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from made_shards import documents, write_source
from parallel_runs import Trial, start
from processes import run_ranks

from data.batches.loader import Batch, Loader, batch_hash
from data.config import DataConfig
from model.attention import AttentionMask
from parallel.config import ParallelConfig
from parallel.mesh import make_mesh
from train.batches import name_samples, to_local_batch
from train.safety.watchdog import Watchdog

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


def hashes_on_a_rank(data: dict[str, Any], parallel: dict[str, Any], micro_batch_size: int, workers: int) -> list[str]:
    mesh = make_mesh(ParallelConfig(**parallel), timeout_seconds=60)
    with open_loader(data, data_rank=mesh.data.rank, data_size=mesh.data.size, workers=workers) as loader:
        return [
            to_local_batch(
                loader.batch(step), mesh, micro_batch_size=micro_batch_size, documents=lambda documents_BT: None
            ).hash
            for step in range(STEPS)
        ]


@dataclasses.dataclass(frozen=True)
class EvaluationRecord:
    """Of one step, by a rank: what the batch says of all ranks, and the collectives that it took to know."""

    tokens: int
    stop: bool
    messages: int


def steps_on_a_rank(data: dict[str, Any], parallel: dict[str, Any], asked: list[int | None]) -> list[EvaluationRecord]:
    """`asked`: by step, the rank that is asked to stop."""
    mesh = make_mesh(ParallelConfig(**parallel), timeout_seconds=60)
    seen = []
    with open_loader(data, data_rank=mesh.data.rank, data_size=mesh.data.size) as loader:
        for step, rank in enumerate(asked):
            rows = loader.batch(step)
            with torch.profiler.profile() as profile:
                batch = to_local_batch(
                    rows,
                    mesh,
                    micro_batch_size=1,
                    documents=lambda documents_BT: None,
                    stop_asked=rank == mesh.rank,
                )
            messages = sum(event.name.startswith("gloo:") for event in profile.events())
            seen.append(EvaluationRecord(batch.tokens_global, batch.stop, messages))
    return seen


@pytest.mark.slow
def test_one_message_tells_all_ranks_of_tokens_and_of_a_stop(data: dict[str, Any]) -> None:
    """One rank counts the tokens of all that see the same rows; any rank's wish to stop is heard."""
    parallel = {"tensor": 2, "pipeline": 2}
    with open_loader(data) as loader:
        tokens = [int(loader.batch(step).loss_mask.sum()) for step in range(3)]
    for seen in run_ranks(4, steps_on_a_rank, data, parallel, [None, 3, 0]):
        assert [step.tokens for step in seen] == tokens
        assert [step.stop for step in seen] == [False, True, True]
        assert [step.messages for step in seen] == [1, 1, 1]


def masks_on_a_rank(data: dict[str, Any], parallel: dict[str, Any]) -> tuple[int, int, int]:
    """Of a step over 8 micro-batches: how often masks were made before it, and in all; the most alive at once."""
    mesh, parts = start(Trial(parallel=parallel, micro_batch_size=1))
    made: list[weakref.ref[AttentionMask]] = []
    most = 0

    def documents(documents_BT: torch.Tensor) -> AttentionMask | None:
        nonlocal most
        masks = AttentionMask.from_documents(documents_BT, kernel="sdpa", dtype=torch.float32)
        assert masks is not None
        made.append(weakref.ref(masks))
        most = max(most, sum(each() is not None for each in made))
        return masks

    with open_loader(data) as loader:
        batch = to_local_batch(loader.batch(0), mesh, micro_batch_size=1, documents=documents)
        before = len(made)
        parts.engine.train_step(Watchdog(60.0, print).track_progress(batch.micro_batches), lr=1e-3)
    return before, len(made), most


@pytest.mark.parametrize(
    ("ranks", "parallel"),
    [(1, {}), (1, {"zero": 2}), (2, {"pipeline": 2}), (2, {"pipeline": 2, "virtual_stages": 2})],
)
def test_masks_are_made_for_one_micro_batch_after_the_other(
    data: dict[str, Any], ranks: int, parallel: dict[str, Any]
) -> None:
    """And once for all chunks of a rank, of which the first may be four micro-batches ahead of the last."""
    for before, made, most in run_ranks(ranks, masks_on_a_rank, data, parallel):
        assert before == 0
        assert made == ROWS
        assert most <= (6 if "virtual_stages" in parallel else 2)


def whole(rows: Batch) -> str:
    return np.array([batch_hash(rows, first_row=0)], dtype=np.int64).view(np.uint64)[0].item().to_bytes(8, "big").hex()


@pytest.mark.parametrize(
    ("ranks", "parallel", "micro_batch_size", "workers"),
    [(1, {}, 2, 1), (1, {}, 8, 3), (2, {"data": 2}, 1, 1), (2, {"tensor": 2}, 4, 1), (4, {"data": 4, "zero": 0}, 2, 2)],
)
def test_every_layout_has_the_hash_of_the_whole_batch(
    data: dict[str, Any], ranks: int, parallel: dict[str, Any], micro_batch_size: int, workers: int
) -> None:
    with open_loader(data) as loader:
        expected = [whole(loader.batch(step)) for step in range(STEPS)]
    assert len(set(expected)) == STEPS
    assert run_ranks(ranks, hashes_on_a_rank, data, parallel, micro_batch_size, workers) == [expected] * ranks


def test_any_other_batch_has_another_hash(data: dict[str, Any]) -> None:
    with open_loader(data) as loader:
        rows = loader.batch(0)
    found = {whole(rows)}
    swapped = [1, 0, *range(2, ROWS)]
    found.add(whole(Batch(**{field.name: getattr(rows, field.name)[swapped] for field in dataclasses.fields(rows)})))
    for field in ("tokens", "targets", "samples", "sources"):
        array = getattr(rows, field).copy()
        array.reshape(-1)[3] += 1
        found.add(whole(dataclasses.replace(rows, **{field: array})))
    assert len(found) == 6


def test_samples_are_told_by_source(data: dict[str, Any]) -> None:
    with open_loader(data) as loader:
        samples = name_samples(loader, 2)
        rows = loader.batch(2)
    assert set(samples) == {"alpha", "beta"}
    assert sorted(samples["alpha"] + samples["beta"]) == sorted(rows.samples.tolist())
    for number, name in enumerate(("alpha", "beta")):
        assert samples[name] == rows.samples[rows.sources == number].tolist()
