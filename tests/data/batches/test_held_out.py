"""The held-out split: every token but a source's first is a target exactly once, whatever the ranks and rounds."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from made_shards import TEXT_BYTES_PER_TOKEN, documents, write_source

from data.batches.batch import PADDING
from data.batches.held_out import HeldOutLoader
from data.config import DataConfig

# Tokens of each source's held-out files: several sequences and a part, less than one, exactly two, one token, none.
SIZES = {"long": (200, 3, 131), "short": (9,), "exact": (65,), "single": (1,), "none": ()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, sizes in SIZES.items():
        held_out = [documents(rng, tokens=size) for size in sizes]
        write_source(tmp_path, name, train=[documents(rng, tokens=50)], held_out=held_out)
    return tmp_path


def stream(folder: Path, name: str) -> list[int]:
    return [int(t) for path in sorted((folder / name / "held_out").glob("*.ds")) for t in np.fromfile(path, np.uint16)]


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (4, 1), (4, 2), (4, 4), (64, 2)])
def test_every_token_is_a_target_once(folder: Path, rows: int, size: int) -> None:
    held_out = HeldOutLoader(DataConfig(shards=folder), seq_length=32)
    assert held_out.sources == ("exact", "long", "short")
    assert [held_out.num_sequences(name) for name in held_out.sources] == [2, 11, 1]
    ranks = [list(held_out.rounds(rows, rank, size)) for rank in range(size)]
    assert len({len(rounds) for rounds in ranks}) == 1, "all ranks have the same rounds"
    targets, inputs, sequences = defaultdict(list), defaultdict(list), defaultdict(list)
    for shares in zip(*ranks, strict=True):
        assert len({source for source, _ in shares}) == 1, "a round is of one source on all ranks"
        for source, share in shares:
            assert len(share) == rows // size
            assert {held_out.shards.names[number] for number in share.sources} == {source}
            is_padding = share.samples == PADDING
            assert not share.loss_mask[is_padding].any()
            assert share.loss_mask[~is_padding].any(axis=1).all()
            assert share.tokens.min() >= 0, "padding is a token that can be embedded"
            targets[source] += share.targets[share.loss_mask].tolist()
            inputs[source] += share.tokens[share.loss_mask].tolist()
            sequences[source] += share.samples[~is_padding].tolist()
    for name in held_out.sources:
        tokens = stream(folder, name)
        assert targets[name] == tokens[1:]
        assert inputs[name] == tokens[:-1]
        assert sequences[name] == list(range(held_out.num_sequences(name)))


def test_max_sequences_limits_each_source(folder: Path) -> None:
    held_out = HeldOutLoader(DataConfig(shards=folder), seq_length=32, max_sequences=5)
    rounds = list(held_out.rounds(4))
    samples = [(source, rows.samples.tolist()) for source, rows in rounds]
    pad = PADDING
    assert samples == [
        ("exact", [0, 1, pad, pad]),
        ("long", [0, 1, 2, 3]),
        ("long", [4, pad, pad, pad]),
        ("short", [0, pad, pad, pad]),
    ]


def test_documents_and_positions_restart(folder: Path) -> None:
    for masking in (True, False):
        held_out = HeldOutLoader(DataConfig(shards=folder, document_masking=masking), seq_length=32)
        ends = 0
        for _, rows in held_out.rounds(2):
            real = rows.loss_mask[:, :-1]
            if masking:
                assert np.array_equal((np.diff(rows.documents, axis=1) == 1)[real], (rows.tokens[:, :-1] == 0)[real])
                ends += int(rows.documents.max())
            else:
                assert not rows.documents.any()
                assert (rows.positions == np.arange(32)).all()
        assert (ends > 0) == masking


def test_loss_masks_of_shards_hold(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    made = documents(rng, tokens=100)
    masks = [[bool(rng.random() < 0.5) for _ in document] for document in made]
    write_source(tmp_path, "a", train=[made], held_out=[made], held_out_loss={0: masks})
    rows = [rows for _, rows in HeldOutLoader(DataConfig(shards=tmp_path), seq_length=32).rounds(1)]
    flat = [value for mask in masks for value in mask]
    assert np.concatenate([row.loss_mask[0] for row in rows])[:99].tolist() == flat[1:]
    assert not np.concatenate([row.loss_mask[0] for row in rows])[99:].any()


def test_a_source_without_a_counted_token_has_no_loss(tmp_path: Path) -> None:
    """Only the targets of the sequences that are taken count: the first token of a source is no target."""
    for name, counted in (("first", 0), ("none", None), ("second", 1), ("late", 40)):
        tokens = list(range(1, 60))
        mask = [position == counted for position in range(59)]
        write_source(tmp_path, name, train=[[tokens]], held_out=[[tokens]], held_out_loss={0: [mask]})
    few = HeldOutLoader(DataConfig(shards=tmp_path), seq_length=8, max_sequences=5)
    assert (few.sources, few.uncounted_sources) == (("late", "second"), ("first", "none"))
    fewer = HeldOutLoader(DataConfig(shards=tmp_path), seq_length=8, max_sequences=4)
    assert (fewer.sources, fewer.uncounted_sources) == (("second",), ("first", "late", "none"))
    for held_out in (few, fewer):
        counted = {name for name, rows in held_out.rounds(2) if rows.loss_mask.any()}
        assert counted == set(held_out.sources)


def test_the_identity_is_that_of_what_decides_the_loss(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    def identity(most: int | None = None, *, shards: Path = folder, masking: bool = True, length: int = 32) -> object:
        config = DataConfig(shards=shards, document_masking=masking)
        return HeldOutLoader(config, seq_length=length, max_sequences=most).identity()

    copied = shutil.copytree(folder, tmp_path_factory.mktemp("copied"), dirs_exist_ok=True)
    assert identity(100) == identity() == identity(shards=copied)  # no source has as many
    different = [identity(5), identity(6), identity(masking=False), identity(length=16)]
    write_source(copied, "more", train=[[[1, 0]]], held_out=[[[1, 2, 0]]])
    different.append(identity(shards=copied))
    assert len({json.dumps(plain) for plain in [identity(), *different]}) == 6


def test_bits_per_byte_need_the_bytes(folder: Path) -> None:
    assert HeldOutLoader(DataConfig(shards=folder), seq_length=32).bytes_per_token("long") == TEXT_BYTES_PER_TOKEN


def test_sources_outside_the_mixture_are_held_out_too(folder: Path) -> None:
    """All sources of the config are measured, so that forgetting of a source shows after the mixture drops it."""
    text = {name: {"name": "text", "path": "x"} for name in ("long", "short")}
    config = DataConfig.model_construct(
        **{**DataConfig(shards=folder).__dict__, "sources": text, "mixture": {"short": 1}}
    )
    assert HeldOutLoader(config, seq_length=32).sources == ("long", "short")
