"""The streams of shards: many files without file descriptors, and files that nobody may write."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from made_shards import documents, write_source

from data.config import DataConfig
from data.shards.index import open_shards
from data.shards.stream import TokenStream
from settings import UserError


@pytest.mark.parametrize("token_bytes", [2, 4])
def test_open_streams_hold_no_file_descriptors(tmp_path: Path, token_bytes: int) -> None:
    rng = np.random.default_rng(0)
    files = [documents(rng, tokens=20) for _ in range(60)]
    masks = {0: [[True] * len(document) for document in files[0]]}
    write_source(tmp_path, "a", train=files, loss=masks, token_bytes=token_bytes)
    for path in (tmp_path / "a" / "train").iterdir():
        path.chmod(0o444)
    before = set(os.listdir("/proc/self/fd"))
    stream = open_shards(DataConfig(shards=tmp_path)).stream("a", "train")
    assert set(os.listdir("/proc/self/fd")) == before
    everything = [token for file in files for document in file for token in document]
    assert stream.read(np.array([0]), stream.tokens)[0].tolist() == everything
    assert stream.read(np.array([0]), 7).dtype == np.dtype(f"<u{token_bytes}")
    assert all(not array.flags.writeable for array in mapped_arrays(stream))


def mapped_arrays(stream: TokenStream) -> list[np.ndarray]:
    arrays = [array for shard in stream._shards for array in (shard.tokens, shard.ends, shard.loss_mask)]
    return [array for array in arrays if array is not None]


def test_only_the_shards_that_are_read_are_opened(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_source(tmp_path, "a", train=[documents(rng, tokens=20) for _ in range(6)])
    folder = tmp_path / "a/train"
    for number in (0, 1, 2, 4, 5):
        (folder / f"{number:05d}.ds").unlink()
        (folder / f"{number:05d}.ds.index").unlink()
    stream = open_shards(DataConfig(shards=tmp_path)).stream("a", "train")
    assert stream.read(np.array([60]), 20).shape == (1, 20)
    stream.document_starts(np.array([60]), 20)
    with pytest.raises(UserError, match=r"shard .*00002.ds cannot be opened \(No such file .* `lehr data build`"):
        stream.read(np.array([55]), 20)
    (folder / "00002.ds").write_bytes(b"short")
    with pytest.raises(UserError, match=r"00002.ds has 5 bytes but .*dataset.json says 40: it is cut short"):
        stream.read(np.array([55]), 20)
