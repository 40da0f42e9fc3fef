"""Batches equal a reference made token by token, whatever the ranks, workers and steps before."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from datatrove.utils.dataset import DatatroveFolderDataset
from made_shards import EOS, documents, write_source

from data.batches.loader import Batch, Loader, batch_hash
from data.batches.training_data import DataStage, with_stages
from data.config import DataConfig
from settings import UserError

FIELDS = ("tokens", "targets", "loss_mask", "positions", "documents", "sources", "samples")
HASH = 8869367136757634053
Files = list[list[list[int]]]


def assert_same(one: Batch, other: Batch) -> None:
    for field in FIELDS:
        a, b = getattr(one, field), getattr(other, field)
        assert a.dtype == b.dtype
        assert np.array_equal(a, b), field


def joined(parts: list[Batch]) -> Batch:
    return Batch(**{field: np.concatenate([getattr(part, field) for part in parts]) for field in FIELDS})


def batches(loader: Loader, steps: int) -> list[Batch]:
    return [loader.batch(step) for step in range(steps)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three sources; "b" has many small files, "c" has one."""
    rng = np.random.default_rng(0)
    write_source(tmp_path / "shards", "a", train=[documents(rng, tokens=n) for n in (900, 350)])
    write_source(tmp_path / "shards", "b", train=[documents(rng, tokens=n) for n in (5, 40, 1, 300, 9, 160)])
    write_source(tmp_path / "shards", "c", train=[documents(rng, tokens=700)])
    return tmp_path / "shards"


def config(folder: Path, **values: object) -> DataConfig:
    return DataConfig.model_validate({"shards": folder, "mixture": {"a": 0.5, "b": 0.3, "c": 0.2}, **values})


def staged(folder: Path, later: dict[int, dict[str, float]]) -> DataConfig:
    """Return the config with other mixtures from later steps on."""
    data = config(folder)
    mixtures = {0: data.mixture, **later}
    return with_stages(
        data, [DataStage(f"stages.{first_step}", first_step, mixture) for first_step, mixture in mixtures.items()]
    )


class Reference:
    """One source, flattened to Python lists; a row is made token by token."""

    def __init__(self, files: Files, masks: dict[int, list[list[bool]]] | None = None) -> None:
        self.tokens, self.document, self.counts = [], [], []
        number = 0
        for file, file_documents in enumerate(files):
            for place, document in enumerate(file_documents):
                self.tokens += document
                self.document += [number] * len(document)
                self.counts += masks[file][place] if masks and file in masks else [True] * len(document)
                number += 1

    def row(self, sequence: int, length: int, masking: bool) -> dict[str, list[int]]:
        made: dict[str, list[int]] = {field: [] for field in FIELDS[:5]}
        for t in range(sequence * length, sequence * length + length):
            made["tokens"].append(self.tokens[t])
            made["targets"].append(self.tokens[t + 1])
            made["loss_mask"].append(self.counts[t + 1])
            if masking and made["documents"] and self.document[t] != self.document[t - 1]:
                made["documents"].append(made["documents"][-1] + 1)
                made["positions"].append(0)
            else:
                made["documents"].append(made["documents"][-1] if made["documents"] else 0)
                made["positions"].append(made["positions"][-1] + 1 if made["positions"] else 0)
        return made


@pytest.mark.parametrize("masking", [True, False])
@pytest.mark.parametrize("token_bytes", [2, 4])
@pytest.mark.parametrize("length", [7, 64])
def test_rows_against_a_reference_token_by_token(tmp_path: Path, masking: bool, token_bytes: int, length: int) -> None:
    """Sources have one or several files, files shorter than a row, an empty file, empty documents, some loss masks."""
    rng = np.random.default_rng(length)
    vocab_size = 60_000 if token_bytes == 2 else 3_000_000_000
    sizes = {"many": (30, 1, 260, 0, 3, 5, 400), "one": (800,), "three": (200, 300, 100)}
    files = {
        name: [documents(rng, tokens=n, vocab_size=vocab_size, longest=50) for n in parts]
        for name, parts in sizes.items()
    }
    files["many"][2].insert(3, [])
    files["many"][2].insert(3, [])
    files["many"][6].insert(0, [])
    files["one"][0].append([])
    masks = {2: [[bool(rng.random() < 0.6) for _ in document] for document in files["many"][2]]}
    references = {}
    for name in files:
        loss = masks if name == "many" else None
        write_source(tmp_path, name, train=files[name], token_bytes=token_bytes, vocab_size=vocab_size, loss=loss)
        references[name] = Reference(files[name], loss)
    settings = DataConfig(shards=tmp_path, document_masking=masking)
    seen = Counter()
    with Loader(settings, seed=3, seq_length=length, rows_per_step_global=12) as loader:
        for step in range(5):
            rows = loader.batch(step)
            for i in range(12):
                reference = references[loader.shards.names[rows.sources[i]]]
                sequences = (len(reference.tokens) - 1) // length
                matches = [
                    sequence
                    for sequence in range(sequences)
                    if reference.tokens[sequence * length : (sequence + 1) * length] == rows.tokens[i].tolist()
                ]
                assert len(matches) == 1
                for field, expected in reference.row(matches[0], length, masking).items():
                    assert getattr(rows, field)[i].tolist() == expected, field
                seen[loader.shards.names[rows.sources[i]]] += 1
    assert set(seen) == set(files)
    assert rows.tokens.dtype == rows.targets.dtype == rows.positions.dtype == np.int64
    assert rows.documents.dtype == np.int32
    assert rows.loss_mask.dtype == np.bool_


def test_every_sequence_is_drawn_once_an_epoch(tmp_path: Path) -> None:
    """Every token but the first is a target exactly once, except the tail that fills no sequence."""
    files = [[list(range(first, first + 100))] for first in range(0, 1000, 100)]
    write_source(tmp_path, "a", train=files, vocab_size=1000)
    length = 13
    sequences = 999 // length
    with Loader(DataConfig(shards=tmp_path), seed=0, seq_length=length, rows_per_step_global=sequences) as loader:
        for epoch in range(3):
            rows = loader.batch(epoch)
            assert sorted(rows.tokens[:, 0].tolist()) == [sequence * length for sequence in range(sequences)]
            assert sorted(rows.targets.ravel().tolist()) == list(range(1, sequences * length + 1))
            assert rows.samples.tolist() == list(range(epoch * sequences, (epoch + 1) * sequences))


def test_proportions_and_stages(folder: Path) -> None:
    """After every row of 40 steps, each source's count is within one row of its weights, stages included."""
    stages = {11: {"b": 3, "c": 1}, 30: {"a": 1, "b": 2}}
    weights = np.concatenate([[[0.5, 0.3, 0.2]] * 11 * 6, [[0, 0.75, 0.25]] * 19 * 6, [[1 / 3, 2 / 3, 0]] * 10 * 6])
    with Loader(staged(folder, stages), seed=0, seq_length=16, rows_per_step_global=6) as loader:
        numbers = [loader.sample_numbers(step) for step in range(40)]
        for step in (0, 10, 11, 35):
            rows = loader.batch(step)
            assert np.array_equal(rows.sources, numbers[step][0])
            assert np.array_equal(rows.samples, numbers[step][1])
    sources = np.concatenate([source for source, _ in numbers])
    counts = np.cumsum(sources[:, None] == np.arange(3), axis=0)
    assert np.abs(counts - np.cumsum(weights, axis=0)).max() < 1


def test_no_mixture_is_in_proportion_to_tokens(folder: Path) -> None:
    with Loader(config(folder, mixture={}), seed=0, seq_length=16, rows_per_step_global=200) as loader:
        sources, _ = loader.sample_numbers(0)
    expected = 200 * np.array([1250, 515, 700]) / 2465
    assert np.abs(np.bincount(sources, minlength=3) - expected).max() < 1.01


@pytest.mark.parametrize(("size", "workers", "prefetch"), [(1, 3, 1), (2, 1, 4), (4, 2, 2), (12, 1, 1)])
def test_ranks_workers_and_prefetch_change_nothing(folder: Path, size: int, workers: int, prefetch: int) -> None:
    common = {"seed": 5, "seq_length": 32, "rows_per_step_global": 12}
    with Loader(config(folder), **common) as alone:
        expected = batches(alone, 8)
    settings = config(folder, prefetch_batches=prefetch)
    ranks = [Loader(settings, data_rank=rank, data_size=size, workers=workers, **common) for rank in range(size)]
    for step, expected_batch in enumerate(expected):
        parts = [rank.batch(step) for rank in ranks]
        assert_same(joined(parts), expected_batch)
        for micro_batch_size in (1, 5, 12):
            assert_same(joined(list(expected_batch.micro_batches(micro_batch_size))), expected_batch)
        hashes = [batch_hash(part, first_row=rank.first_row) for part, rank in zip(parts, ranks, strict=True)]
        with np.errstate(over="ignore"):
            assert np.array(hashes).sum() == batch_hash(expected_batch, first_row=0)
    for rank in ranks:
        rank.close()


def test_a_resume_continues_as_if_it_had_not_stopped(folder: Path) -> None:
    """A fresh loader, and one that jumps between steps, give the batches of a loader that ran from step 0."""
    stages = {9: {"a": 1, "c": 2}}
    common = {"seed": 5, "seq_length": 32, "rows_per_step_global": 6}
    with Loader(staged(folder, stages), **common) as loader:
        expected = batches(loader, 40)
        for step in (39, 0, 17, 8, 9, 10):
            assert_same(loader.batch(step), expected[step])
    for step in (1, 9, 25, 39):
        with Loader(staged(folder, stages), first_step=step, **common) as fresh:
            assert_same(fresh.batch(step), expected[step])


def test_seeds_differ(folder: Path) -> None:
    with (
        Loader(config(folder), seed=1, seq_length=32, rows_per_step_global=6) as one,
        Loader(config(folder), seed=2, seq_length=32, rows_per_step_global=6) as two,
    ):
        assert not np.array_equal(one.batch(0).tokens, two.batch(0).tokens)


def test_another_source_leaves_the_order_of_the_rest(folder: Path) -> None:
    """Sample k of a source is the same sequence in any mixture."""

    def of_c(mixture: dict[str, float]) -> dict[int, list[int]]:
        settings = config(folder, mixture=mixture)
        with Loader(settings, seed=1, seq_length=32, rows_per_step_global=12) as loader:
            rows = joined([loader.batch(step) for step in range(3)])
            from_c = rows.sources == loader.shards.names.index("c")
            return dict(zip(rows.samples[from_c].tolist(), rows.tokens[from_c].tolist(), strict=True))

    alone, mixed = of_c({"c": 1}), of_c({"a": 1, "b": 1, "c": 1})
    assert len(mixed) == 12
    assert all(alone[sample] == tokens for sample, tokens in mixed.items())


@pytest.mark.parametrize("length", [16, 50])
def test_sequences_and_positions_equal_those_of_datatrove(folder: Path, length: int) -> None:
    """datatrove's items are the inputs of lehr's rows, and its positions are lehr's under document masking."""
    datatrove = DatatroveFolderDataset(
        str(folder / "c/train"), length - 1, filename_pattern="*.ds", return_positions=True
    )
    sequences = 699 // length
    with Loader(config(folder, mixture={"c": 1}), seed=2, seq_length=length, rows_per_step_global=sequences) as loader:
        rows = loader.batch(0)
    items = [datatrove[sequence] for sequence in range(sequences)]
    place = {tuple(item["input_ids"].tolist()): sequence for sequence, item in enumerate(items)}
    order = [place[tuple(tokens)] for tokens in rows.tokens.tolist()]
    assert sorted(order) == list(range(sequences))
    for row, sequence in enumerate(order):
        assert rows.positions[row].tolist() == items[sequence]["positions"].tolist()


def test_documents_end_with_their_end_token(folder: Path) -> None:
    """A document's end token belongs to it, and the first token of the next document has position 0."""
    with Loader(config(folder), seed=2, seq_length=64, rows_per_step_global=8) as loader:
        rows = loader.batch(0)
    steps = np.diff(rows.documents, axis=1)
    assert np.array_equal(steps, rows.tokens[:, :-1] == EOS)
    assert np.array_equal(rows.positions[:, 1:] == 0, steps == 1)


def test_batches_that_are_held_do_not_change(folder: Path) -> None:
    """A buffer is used again only when no batch, view or tensor of it is left."""
    common = {"seed": 5, "seq_length": 32, "rows_per_step_global": 6}
    with Loader(config(folder, prefetch_batches=2), **common) as loader:
        rows, tensors, views = [], [], []
        for step in range(0, 30, 3):
            rows.append(loader.batch(step))
            tensors.append(torch.from_numpy(loader.batch(step + 1).targets))
            views.append(loader.batch(step + 2)[1:3].positions[0])
        addresses = [loader.batch(step).tokens.ctypes.data for step in range(30, 60)]
    assert len(set(addresses)) < 10, "buffers are not used again"
    for number, step in enumerate(range(0, 30, 3)):
        with Loader(config(folder), first_step=step, **common) as fresh:
            assert_same(rows[number], fresh.batch(step))
            assert np.array_equal(tensors[number].numpy(), fresh.batch(step + 1).targets)
            assert np.array_equal(views[number], fresh.batch(step + 2).positions[1])


def test_batches_are_made_in_the_background(folder: Path) -> None:
    before = threading.active_count()
    loader = Loader(config(folder, prefetch_batches=3), seed=0, seq_length=32, rows_per_step_global=6, workers=2)
    assert before < threading.active_count() <= before + 2
    for step in (0, 1, 7, 2):
        loader.batch(step)
        deadline = time.monotonic() + 30
        while not all(map(loader.has, range(step + 1, step + 4))) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert [loader.has(number) for number in range(step, step + 5)] == [False, True, True, True, False]
    loader.close()
    assert threading.active_count() == before


def test_memory_is_flat_in_the_size_of_the_shards(tmp_path: Path) -> None:
    """Reading 128 MB of shards in random order takes private memory for the batches alone."""
    tokens = np.random.default_rng(0).integers(1, 60_000, 64_000_000, dtype=np.uint16)
    write_source(tmp_path, "a", train=[[[1, 0]]], vocab_size=60_000)
    grow(tmp_path / "a", tokens)
    del tokens
    process = psutil.Process()

    def private() -> int:
        memory = process.memory_info()
        return int(memory.rss - memory.shared)

    with Loader(DataConfig(shards=tmp_path), seed=0, seq_length=1024, rows_per_step_global=64) as loader:
        loader.batch(0)
        before = private()
        for step in range(1, 200):
            loader.batch(step)
        assert private() - before < 8e6


def grow(source: Path, tokens: np.ndarray) -> None:
    """Replace the tokens of a source's only file by one document."""
    tokens.tofile(source / "train/00000.ds")
    np.array([len(tokens)], dtype=np.uint64).tofile(source / "train/00000.ds.index")
    info = (source / "dataset.json").read_text()
    info = info.replace('"documents": 2', '"documents": 1').replace('"tokens": 2', f'"tokens": {len(tokens)}')
    (source / "dataset.json").write_text(info)


def test_different_batches_have_different_hashes(folder: Path) -> None:
    """A different token, target, source, sample number or row order changes the hash; equal batches share it."""
    with Loader(config(folder), seed=0, seq_length=32, rows_per_step_global=6) as loader:
        rows = loader.batch(0)
        assert batch_hash(loader.batch(0), first_row=0) == batch_hash(rows, first_row=0)
        seen = {batch_hash(loader.batch(step), first_row=0) for step in range(200)}
    assert len(seen) == 200
    assert -(2**63) <= min(seen) < 0 < max(seen) < 2**63
    base = batch_hash(rows, first_row=0)
    others = [batch_hash(rows, first_row=1)]
    for field in ("tokens", "targets", "sources", "samples"):
        changed = {name: getattr(rows, name).copy() for name in FIELDS}
        changed[field][2, ...] = np.roll(changed[field][2], 1) if changed[field].ndim == 2 else changed[field][2] + 1
        others.append(batch_hash(Batch(**changed), first_row=0))
    swapped = {name: getattr(rows, name)[[1, 0, 2, 3, 4, 5]] for name in FIELDS}
    others.append(batch_hash(Batch(**swapped), first_row=0))
    assert len({base, *others}) == 7


def test_the_hash_does_not_change_between_versions() -> None:
    """Hashes in the metrics of two runs are compared, whichever lehr wrote them."""
    tokens = np.arange(12, dtype=np.int64).reshape(2, 6)
    rows = Batch(
        tokens=tokens,
        targets=tokens + 1,
        loss_mask=np.ones((2, 6), dtype=np.bool_),
        positions=tokens % 6,
        documents=np.zeros((2, 6), dtype=np.int32),
        sources=np.array([0, 1], dtype=np.int16),
        samples=np.array([3, 10**12], dtype=np.int64),
    )
    assert batch_hash(rows, first_row=4) == HASH


def test_a_source_shorter_than_a_row_is_refused_where_a_mixture_names_it(folder: Path) -> None:
    with pytest.raises(UserError, match=r'train.seq_length = 515: source "b" has 515 tokens .* at most 514, or leave'):
        Loader(config(folder, mixture={"b": 1}), seed=0, seq_length=515, rows_per_step_global=1)
    Loader(config(folder, mixture={"b": 1}), seed=0, seq_length=514, rows_per_step_global=1).close()
