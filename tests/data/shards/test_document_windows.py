"""The windows of documents, compared with slices of the documents themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_shards import EOS, write_source

from data.config import DataConfig
from data.shards.document_windows import DocumentWindows
from data.shards.index import open_shards
from data.shards.mapped_shard import MappedShard
from settings import UserError

SEQ_LENGTH = 5
DOCUMENTS = [[*range(10 * number + 1, 10 * number + length), EOS] for number, length in enumerate([1, 2, 6, 7, 1, 16])]


def made_shard(folder: Path, *, loss: bool = False, with_hashes: bool = True) -> MappedShard:
    masks = {0: [[token % 2 == 1 for token in document] for document in DOCUMENTS]} if loss else None
    write_source(folder, "a", train=[DOCUMENTS], loss=masks, with_hashes=with_hashes)
    (shard,) = open_shards(DataConfig(shards=folder)).stream("a", "train").shards
    return shard


@pytest.mark.parametrize("tokens_at_once", [1, 12, 1000])
@pytest.mark.parametrize("loss", [False, True])
def test_every_token_but_a_documents_first_is_a_target_once_after_its_own_window(
    tmp_path: Path, tokens_at_once: int, loss: bool
) -> None:
    windows = DocumentWindows(made_shard(tmp_path, loss=loss), seq_length=SEQ_LENGTH)
    found: list[tuple[int, list[int], list[int], list[bool]]] = []
    predicted = 0
    for batch in windows.batches(tokens_at_once=tokens_at_once):
        assert len(batch.tokens) == 1 or batch.tokens.size <= tokens_at_once
        predicted += batch.predicted
        for tokens, targets, counts, document in zip(
            *(each.tolist() for each in (batch.tokens, batch.targets, batch.counts)),
            windows.documents[batch.windows],
            strict=True,
        ):
            length = next(
                size for size in range(len(tokens), 0, -1) if size == 1 or tokens[size - 1] or targets[size - 1]
            )
            assert not any(counts[length:])
            found.append((int(document), tokens[:length], targets[:length], counts[:length]))
    wanted = []
    for number, document in enumerate(DOCUMENTS):
        for start in range(0, len(document) - 1, SEQ_LENGTH):
            tokens, targets = document[start : start + SEQ_LENGTH], document[start + 1 : start + SEQ_LENGTH + 1]
            counts = [not loss or target % 2 == 1 for target in targets]
            wanted.append((number, tokens[: len(targets)], targets, counts))
    assert sorted(found) == sorted(wanted)
    assert predicted == sum(len(document) - 1 for document in DOCUMENTS)


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_the_parts_of_all_batches_are_the_batches(tmp_path: Path, parts: int) -> None:
    windows = DocumentWindows(made_shard(tmp_path), seq_length=SEQ_LENGTH)
    whole = list(windows.batches(tokens_at_once=12))
    divided = [list(windows.batches(tokens_at_once=12, part=part, parts=parts)) for part in range(parts)]
    assert len(whole) == sum(map(len, divided)) > 3
    for number, batch in enumerate(whole):
        found = divided[number % parts][number // parts]
        np.testing.assert_array_equal(found.windows, batch.windows)
        np.testing.assert_array_equal(found.tokens, batch.tokens)


def test_a_shard_without_hashes_is_refused(tmp_path: Path) -> None:
    shard = made_shard(tmp_path / "new")
    assert len(np.unique(shard.document_hashes)) == len(DOCUMENTS) - 1  # two documents are alike
    with pytest.raises(UserError, match=r"00000\.ds has no hashes of documents"):
        _ = made_shard(tmp_path / "old", with_hashes=False).document_hashes
